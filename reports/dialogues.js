"use strict";
// The page of reports/dialogues.py. Everything that comes from a file is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const sound = $("sound");
// dialogue: the one shown; at: number of the marked utterance; playing: number of the one that sounds, or -1;
// timed: whether all of its utterances have times; spans: begin and end of each on the page's time axis; last: its end
const state = { dialogue: null, at: 0, playing: -1, frame: 0, timed: false, spans: [], last: 0 };

// Small helpers

function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "line", "path", "circle", "text", "g"].includes(tag);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)}%`;
const likeliest = (u) => u.p.indexOf(Math.max(...u.p));
const isRight = (u) => u.truth.labels.includes(likeliest(u));
const names = (labels) => labels.map((label) => data.emotions[label]).join(", ");
const colour = (element, label) => { element.style.setProperty("--c", `var(--e${label})`); return element; };

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (h ? `${h}:${String(m).padStart(2, "0")}` : `${m}`) + `:${String(s).padStart(2, "0")}`;
}

// A corpus counts time from the start of a session: its dialogues are shown from their own start
function measure() {
  const utterances = state.dialogue.utterances;
  state.timed = utterances.every((u) => u.start !== null && u.end !== null);
  const first = (earliest, u) => Math.min(earliest, u.start);
  const origin = state.dialogue.sound || !state.timed ? 0 : utterances.reduce(first, Infinity);
  state.spans = utterances.map((u, i) => (state.timed ? [u.start - origin, Math.max(u.end, u.start) - origin] : [i, i + 0.9]));
  state.last = state.spans.reduce((latest, [, end]) => Math.max(latest, end), 0.001);
}

// Texts and sound that lie beside the corpus

function textOf(u) {
  if (u.text !== undefined) return u.text;
  const value = getComputedStyle($("transcripts")).getPropertyValue(`--${u.id}`).trim();
  return value ? decodeURIComponent(value.slice(1, -1)) : "";
}

const soundOf = (u) => state.dialogue.sound || u.sound;

function report(what, url) {
  const shown = decodeURI(url);
  $("missing").textContent = `${what} not found at ${shown}, seen from this page. The page holds no copy of it: ` +
    "keep the page where it was written, and what it shows where it was.";
  $("missing").hidden = false;
}

function loadTranscripts() {
  for (const url of data.transcripts) {
    const link = make("link", { rel: "stylesheet", href: url });
    link.addEventListener("load", () => show(data.dialogues.indexOf(state.dialogue)));
    link.addEventListener("error", () => report("The texts are", url));
    document.head.append(link);
  }
}

// The list of utterances

function describe(u, i) {
  const label = likeliest(u);
  const parts = [`Utterance ${i + 1}`, u.speaker, `predicted ${data.emotions[label]} ${percent(u.p[label])}`];
  if (u.truth) parts.push(`${isRight(u) ? "right" : "wrong"}, raters ${names(u.truth.labels)}`);
  return parts.filter(Boolean).join(", ");
}

function bars(u) {
  const spoken = data.emotions.map((name, label) => `${name} ${percent(u.p[label])}` +
    (u.sd ? ` plus or minus ${percent(u.sd.p[label])}` : "") +
    (u.truth ? `, raters ${percent(u.truth.shares[label])}` : ""));
  const box = make("div", { class: "bars", role: "img", "aria-label": spoken.join("; ") });
  u.p.forEach((share, label) => {
    const bar = colour(make("b", { class: "share" }), label);
    bar.style.height = `${100 * share}%`;
    const pair = make("i", {}, bar);
    if (u.truth) {
      const raters = make("b", { class: "raters" });
      raters.style.height = `${100 * u.truth.shares[label]}%`;
      raters.hidden = !u.truth.shares[label];
      pair.append(raters);
    }
    const figure = make("span", { class: label === likeliest(u) ? "top" : "" }, make("span", {}, percent(share)), pair, data.emotions[label]);
    figure.title = spoken[label];
    box.append(figure);
  });
  return box;
}

function affect(u) {
  const part = (name) => `${name} ${u[name].toFixed(1)}` + (u.sd ? ` ± ${u.sd[name].toFixed(1)}` : "") +
    (u.truth ? ` (raters ${u.truth[name].toFixed(1)})` : "");
  return make("p", { class: "affect" }, make("span", {}, part("arousal")), " ", make("span", {}, part("valence")));
}

function row(u, i) {
  const label = likeliest(u);
  const play = make("button", { "aria-label": `Play: ${describe(u, i)}` }, `▶ ${i + 1}`);
  const line = make("div", { class: "line" }, play);
  if (u.speaker) line.append(make("span", { class: "speaker" }, u.speaker));
  if (state.timed) line.append(make("span", { class: "time" }, state.spans[i].map(clock).join(" – ")));
  if (!soundOf(u)) line.append(make("span", { class: "time" }, "no sound"));
  const words = textOf(u);
  const text = make("p", { class: words ? "text" : "text none" }, words || "no text");
  const verdict = make("p", { class: "verdict" },
    colour(make("span", { class: "chip" }, data.emotions[label], " ", percent(u.p[label])), label));
  if (u.truth) {
    const right = isRight(u);
    verdict.append(make("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong"),
      make("span", {}, `raters: ${names(u.truth.labels)}`));
  }
  const side = make("div", { class: "side" }, bars(u), affect(u));
  return colour(make("li", { class: "card", "data-at": i }, line, text, verdict, side), label);
}

function fits(u) {
  const verdict = $("verdict").value, emotion = $("emotion").value;
  if (verdict && (!u.truth || isRight(u) !== (verdict === "right"))) return false;
  return emotion === "" || likeliest(u) === Number(emotion) || Boolean(u.truth && u.truth.labels.includes(Number(emotion)));
}

function filter() {
  const rows = [...$("rows").children], utterances = state.dialogue.utterances;
  rows.forEach((element, i) => { element.hidden = !fits(utterances[i]); });
  const shown = rows.filter((element) => !element.hidden).length;
  $("count").textContent = `${shown} of ${rows.length} utterances`;
  $("empty").hidden = shown > 0;
  draw();
}

function show(number) {
  state.dialogue = data.dialogues[number];
  measure();
  state.at = Math.min(state.at, state.dialogue.utterances.length - 1);
  $("picker").value = number;
  $("previous-dialogue").disabled = number === 0;
  $("next-dialogue").disabled = number === data.dialogues.length - 1;
  $("rows").replaceChildren(...state.dialogue.utterances.map(row));
  filter();
  mark(state.at);
}

function change(number) {
  stop();
  state.at = 0;
  show(number);
}

// Marking and walking

function mark(i) {
  state.at = i;
  $("rows").querySelectorAll("[aria-current]").forEach((element) => element.removeAttribute("aria-current"));
  $("rows").children[i].setAttribute("aria-current", "true");
  const u = state.dialogue.utterances[i];
  $("now").textContent = [`${i + 1} / ${state.dialogue.utterances.length}`, u.speaker, textOf(u)].filter(Boolean).join("   ");
  const [start, end] = state.spans[i];
  document.querySelectorAll(".band").forEach((band) => {
    const { x } = scale(band.ownerSVGElement);
    band.setAttribute("x", x(start));
    band.setAttribute("width", Math.max(3, x(end) - x(start)));
  });
  head(start);
}

const visible = () => [...$("rows").children].map((element, i) => (element.hidden ? -1 : i)).filter((i) => i >= 0);

function step(direction) {
  const shown = visible();
  if (direction === "first") return shown[0];
  if (direction === "last") return shown.at(-1);
  return direction > 0 ? shown.find((i) => i > state.at) : shown.findLast((i) => i < state.at);
}

function walk(direction) {
  const i = step(direction);
  if (i === undefined) return;
  const sounds = state.playing >= 0;
  mark(i);
  const element = $("rows").children[i];
  element.querySelector("button").focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest" });
  if (sounds) play(i);
}

// Sound

function play(i) {
  const u = state.dialogue.utterances[i];
  const url = soundOf(u);
  mark(i);
  if (!url) return stop();
  state.playing = i;
  if (sound.getAttribute("src") !== url) sound.src = url;
  const begin = () => {
    if (state.playing !== i) return;
    sound.currentTime = state.dialogue.sound ? u.start : 0;
    sound.play().catch(() => {}); // a file that is not there is reported by the error event
    cancelAnimationFrame(state.frame);
    state.frame = requestAnimationFrame(follow);
  };
  if (sound.readyState >= 1) begin();
  else {
    sound.addEventListener("loadedmetadata", begin, { once: true });
    sound.load();
  }
  buttons();
}

function stop() {
  state.playing = -1;
  cancelAnimationFrame(state.frame);
  sound.pause();
  buttons();
}

function finished() {
  const next = $("through").checked ? step(1) : undefined;
  if (next === undefined) return stop();
  $("rows").children[next].scrollIntoView({ block: "nearest" });
  play(next);
}

function follow() {
  if (state.playing < 0) return;
  const u = state.dialogue.utterances[state.playing];
  const [start] = state.spans[state.playing];
  const played = sound.currentTime - (state.dialogue.sound ? u.start : 0);
  head(state.timed ? start + played : start);
  if (state.dialogue.sound && sound.currentTime >= u.end) return finished();
  state.frame = requestAnimationFrame(follow);
}

function toggle(i) {
  if (state.playing === i) stop();
  else play(i);
}

function buttons() {
  const sounds = state.playing >= 0;
  $("play").setAttribute("aria-label", sounds ? "Stop" : "Play");
  $("play-icon").setAttribute("d", sounds ? "M2 2h12v12H2z" : "M3 1l11 7-11 7z");
}

// Charts: the timeline has a lane for each emotion, so that colour is never all that tells them apart

const GUTTER = 62, RIGHT = 10, LANE = 18, CURVE = 92;

function scale(svg) {
  const width = svg.viewBox.baseVal.width;
  return { width, x: (time) => GUTTER + (time / state.last) * (width - GUTTER - RIGHT) };
}

function canvas(box, height, label) {
  const width = Math.max(200, box.clientWidth);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  box.replaceChildren(svg);
  return svg;
}

function timeAxis(svg, y) {
  const { width, x } = scale(svg), last = state.last;
  const wanted = last / Math.max(2, (width - GUTTER) / 90);
  const stepSize = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600].find((size) => size >= wanted) || 7200;
  for (let time = 0; time <= last; time += stepSize) {
    svg.append(make("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: y }));
    const anchor = x(time) > width - 25 ? "end" : "middle";
    svg.append(make("text", { x: x(time), y: y + 13, "text-anchor": anchor }, state.timed ? clock(time) : String(time + 1)));
  }
}

function overlay(svg, height) {
  const { x } = scale(svg), utterances = state.dialogue.utterances;
  svg.append(make("rect", { class: "band", y: 0, height }));
  svg.append(make("line", { class: "head", y1: 0, y2: height, x1: -9, x2: -9 }));
  utterances.forEach((u, i) => {
    const [start, end] = state.spans[i];
    const hit = make("rect", { class: "hit", "data-at": i, x: x(start), y: 0, width: Math.max(3, x(end) - x(start)), height });
    svg.append(hit);
  });
}

function drawTimeline() {
  const utterances = state.dialogue.utterances, height = 7 * LANE;
  const counts = data.emotions.map((name, label) => [name, utterances.filter((u) => likeliest(u) === label).length]);
  const spoken = counts.filter(([, n]) => n).map(([name, n]) => `${name} ${n}`).join(", ");
  const svg = canvas($("timeline"), height + 18, `Timeline of ${utterances.length} utterances; predicted: ${spoken}`);
  const { width, x } = scale(svg);
  timeAxis(svg, height);
  data.emotions.forEach((name, label) => {
    svg.append(make("line", { class: "grid", x1: GUTTER, x2: width, y1: (label + 1) * LANE, y2: (label + 1) * LANE }));
    svg.append(make("text", { class: "lane", x: GUTTER - 8, y: label * LANE + 13, "text-anchor": "end" }, name));
  });
  utterances.forEach((u, i) => {
    const [start, end] = state.spans[i], wide = Math.max(2, x(end) - x(start) - 1);
    const block = (label, extra) => make("rect", { x: x(start), y: label * LANE + 3, width: wide, height: LANE - 6, rx: 2, class: extra + (fits(u) ? "" : " off") });
    svg.append(colour(block(likeliest(u), "predicted"), likeliest(u)));
    if (u.truth) u.truth.labels.forEach((label) => svg.append(block(label, "true")));
  });
  overlay(svg, height);
}

function drawCurve(name) {
  const utterances = state.dialogue.utterances, y = (value) => 6 + ((5 - value) / 4) * (CURVE - 12);
  const mean = utterances.reduce((sum, u) => sum + u[name], 0) / utterances.length;
  const svg = canvas($(name), CURVE + 18, `Predicted ${name} over the dialogue, from 1 to 5, on average ${mean.toFixed(1)}`);
  const { width, x } = scale(svg);
  timeAxis(svg, CURVE);
  for (const value of [1, 2, 3, 4, 5]) {
    svg.append(make("line", { class: "grid", x1: GUTTER, x2: width, y1: y(value), y2: y(value) }));
    if (value % 2) svg.append(make("text", { x: GUTTER - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const middle = (u, i) => { const [start, end] = state.spans[i]; return x((start + end) / 2); };
  const path = (value) => utterances.map((u, i) => `${i ? "L" : "M"}${middle(u, i).toFixed(1)} ${y(value(u)).toFixed(1)}`).join("");
  const small = utterances.length > 60 ? 1.6 : 3;
  if (utterances[0].truth) {
    svg.append(make("path", { class: "curve raters", d: path((u) => u.truth[name]) }));
    utterances.forEach((u, i) => svg.append(make("rect", { class: "dot raters", x: middle(u, i) - small, y: y(u.truth[name]) - small, width: 2 * small, height: 2 * small })));
  }
  svg.append(make("path", { class: "curve", d: path((u) => u[name]) }));
  utterances.forEach((u, i) => {
    if (u.sd) svg.append(make("line", { class: "spread", x1: middle(u, i), x2: middle(u, i), y1: y(u[name] - u.sd[name]), y2: y(u[name] + u.sd[name]) }));
    svg.append(make("circle", { class: "dot", cx: middle(u, i), cy: y(u[name]), r: small + 0.3 }));
  });
  overlay(svg, CURVE);
}

function drawLegend() {
  const key = (label, ...shapes) => make("span", {}, make("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, ...shapes), ` ${label}`);
  const parts = [
    key("predicted emotion", colour(make("rect", { class: "predicted", x: 4, y: 1, width: 20, height: 10, rx: 2 }), 5)),
    key("predicted arousal, valence", make("path", { class: "curve", d: "M0 6H28" }), make("circle", { class: "dot", cx: 14, cy: 6, r: 3 })),
  ];
  if (state.dialogue.utterances[0].truth) {
    parts.splice(1, 0, key("raters' majority", make("rect", { class: "true", x: 4, y: 1, width: 20, height: 10, rx: 2 })));
    parts.push(key("raters' mean", make("path", { class: "curve raters", d: "M0 6H28" }), make("rect", { class: "dot raters", x: 11, y: 3, width: 6, height: 6 })));
  }
  $("legend").replaceChildren(...parts);
}

function draw() {
  drawTimeline();
  drawCurve("arousal");
  drawCurve("valence");
  drawLegend();
}

function head(time) {
  document.querySelectorAll(".chart .head").forEach((line) => {
    const { x } = scale(line.ownerSVGElement);
    line.setAttribute("x1", x(time));
    line.setAttribute("x2", x(time));
  });
}

// What the user does

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const walks = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: "first", End: "last" };
  if (event.key in walks) walk(walks[event.key]);
  else if (event.key === "Escape") stop();
  else if (event.key === " " && !event.target.matches("button, input")) toggle(state.at);
  else return;
  event.preventDefault();
}

function start() {
  data.dialogues.forEach((dialogue, number) => $("picker").append(make("option", { value: number }, dialogue.name)));
  $("pick").hidden = data.dialogues.length < 2;
  const known = data.dialogues.some((dialogue) => dialogue.utterances.some((u) => u.truth));
  $("verdict-label").hidden = $("explained").hidden = !known;
  $("picker").addEventListener("change", () => change(Number($("picker").value)));
  $("previous-dialogue").addEventListener("click", () => change(data.dialogues.indexOf(state.dialogue) - 1));
  $("next-dialogue").addEventListener("click", () => change(data.dialogues.indexOf(state.dialogue) + 1));
  for (const id of ["verdict", "emotion"]) $(id).addEventListener("change", () => { filter(); mark(state.at); });
  const clicked = (event) => {
    const element = event.target.closest("[data-at]");
    if (element && getSelection().isCollapsed) toggle(Number(element.dataset.at));
  };
  $("rows").addEventListener("click", clicked);
  $("overview").addEventListener("click", (event) => {
    clicked(event);
    $("rows").children[state.at].scrollIntoView({ block: "nearest" });
  });
  $("play").addEventListener("click", () => (state.playing >= 0 ? stop() : play(state.at)));
  $("back").addEventListener("click", () => walk(-1));
  $("forward").addEventListener("click", () => walk(1));
  document.addEventListener("keydown", onKey);
  sound.addEventListener("ended", () => { if (state.playing >= 0) finished(); });
  sound.addEventListener("error", () => {
    if (!sound.getAttribute("src")) return;
    report("The sound is", sound.getAttribute("src"));
    stop();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    draw();
    mark(state.at);
  });
  show(0);
  loadTranscripts();
}

start();
