"use strict";
// The page of reports/dialogues.py. Everything that comes from a file is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const sound = $("sound");
// number: of the dialogue shown; at: of the selected utterance; playing: of the one that plays, or -1;
// timed: whether all utterances have times; spans: start and end of each on the time axis; last: the latest end
const state = { number: 0, at: 0, playing: -1, frame: 0, timed: false, spans: [], last: 0 };
const utterances = () => data.dialogues[state.number].utterances;

function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "line", "path", "circle", "text"].includes(tag);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)}%`;
const names = (labels) => labels.map((label) => data.emotions[label]).join(", ");
const isRight = (u) => u.truth && u.truth.labels.includes(u.label);
const colour = (element, label) => { element.style.setProperty("--c", `var(--e${label})`); return element; };

const clock = (seconds) => new Date(1000 * Math.max(0, seconds)).toISOString().slice(11, 19).replace(/^00:0?|^0/, "");

// A corpus counts time from the start of a session: its dialogues are shown from their own start
function measure() {
  state.timed = utterances().every((u) => u.start !== null && u.end !== null);
  const origin = data.recording || !state.timed ? 0 : utterances().reduce((first, u) => Math.min(first, u.start), Infinity);
  state.spans = utterances().map((u, i) => (state.timed ? [u.start - origin, Math.max(u.end, u.start) - origin] : [i, i + 0.9]));
  state.last = state.spans.reduce((latest, [, end]) => Math.max(latest, end), 0.001);
}

// The list of utterances

function bars(u) {
  const spoken = data.emotions.map((name, label) => `${name} ${percent(u.p[label])}` +
    (u.sd ? ` plus or minus ${percent(u.sd.p[label])}` : "") + (u.truth?.shares ? `, raters ${percent(u.truth.shares[label])}` : ""));
  const bar = (share, kind, label) => colour(make("b", { class: kind, style: `height: ${100 * share}%` }), label);
  const columns = u.p.map((share, label) => {
    const pair = make("i", {}, bar(share, "share", label));
    if (u.truth?.shares?.[label]) pair.append(bar(u.truth.shares[label], "raters", label));
    const attributes = { class: label === u.label ? "top" : "", title: spoken[label] };
    return make("span", attributes, make("span", {}, percent(share)), pair, data.emotions[label]);
  });
  return make("div", { class: "bars", role: "img", "aria-label": spoken.join("; ") }, ...columns);
}

function row(u, i) {
  const predicted = `${data.emotions[u.label]} ${percent(u.p[u.label])}`, verdict = isRight(u) ? "right" : "wrong";
  const spoken = [`Play: Utterance ${i + 1}`, u.speaker, `predicted ${predicted}`];
  if (u.truth) spoken.push(verdict, `raters ${names(u.truth.labels)}`);
  const line = make("div", { class: "line" }, make("button", { "aria-label": spoken.filter(Boolean).join(", ") }, `▶ ${i + 1}`));
  if (u.speaker) line.append(make("span", { class: "speaker" }, u.speaker));
  if (state.timed) line.append(make("span", { class: "time" }, state.spans[i].map(clock).join(" – ")));
  if (!u.sound) line.append(make("span", { class: "time" }, "no audio"));
  const judged = make("p", { class: "line verdict" }, colour(make("span", { class: "chip" }, predicted), u.label));
  if (u.truth) judged.append(make("span", { class: verdict }, isRight(u) ? "✓ right" : "✗ wrong"), `raters: ${names(u.truth.labels)}`);
  const affect = ["arousal", "valence"].map((name) => `${name} ${u[name].toFixed(1)}` +
    (u.sd ? ` ± ${u.sd[name].toFixed(1)}` : "") + (u.truth && name in u.truth ? ` (raters ${u.truth[name].toFixed(1)})` : ""));
  return colour(make("li", { class: "card", "data-at": i }, line,
    make("p", { class: u.text ? "text" : "text none" }, u.text || "no text"), judged,
    make("div", { class: "side" }, bars(u), make("p", { class: "affect" }, affect.join(", ")))), u.label);
}

function matches(u) {
  const verdict = $("verdict").value, emotion = $("emotion").value;
  if (verdict && String(Boolean(isRight(u))) !== verdict) return false;
  return emotion === "" || [u.label, ...(u.truth?.labels || [])].includes(Number(emotion));
}

const shown = () => [...$("rows").children].flatMap((element, i) => (element.hidden ? [] : [i]));

function filter() {
  [...$("rows").children].forEach((element, i) => { element.hidden = !matches(utterances()[i]); });
  $("count").textContent = `${shown().length} of ${utterances().length} utterances`;
  $("empty").hidden = shown().length > 0;
  draw();
}

function show(number) {
  stop();
  Object.assign(state, { number, at: 0 });
  measure();
  $("picker").value = number;
  $("previous-dialogue").disabled = number === 0;
  $("next-dialogue").disabled = number === data.dialogues.length - 1;
  $("rows").replaceChildren(...utterances().map(row));
  filter();
}

// Selecting an utterance

function select(i, scroll = true) {
  state.at = i;
  $("rows").querySelector("[aria-current]")?.removeAttribute("aria-current");
  $("rows").children[i].setAttribute("aria-current", "true");
  const u = utterances()[i], [start, end] = state.spans[i];
  $("now").textContent = [`${i + 1} / ${utterances().length}`, u.speaker, u.text].filter(Boolean).join("   ");
  document.querySelectorAll(".band").forEach((band) => {
    const x = scale(band.ownerSVGElement);
    band.setAttribute("x", x(start));
    band.setAttribute("width", Math.max(3, x(end) - x(start)));
  });
  head(start);
  if (scroll) $("rows").children[i].scrollIntoView({ block: "nearest" });
}

const head = (time) => document.querySelectorAll(".head").forEach((line) => line.setAttribute("x", scale(line.ownerSVGElement)(time) - 1));

function step(direction) {
  if (Math.abs(direction) === Infinity) return shown().at(direction > 0 ? -1 : 0);
  return direction > 0 ? shown().find((i) => i > state.at) : shown().findLast((i) => i < state.at);
}

function walk(direction) {
  const i = step(direction), plays = state.playing >= 0;
  if (i === undefined) return;
  select(i);
  $("rows").children[i].querySelector("button").focus({ preventScroll: true });
  if (plays) play(i);
}

// Audio

function play(i) {
  const u = utterances()[i];
  select(i);
  stop();
  if (!u.sound) return;
  state.playing = i;
  sound.src = data.recording ? `${u.sound}#t=${u.start}` : u.sound;
  sound.play().catch(() => {}); // the error event reports a missing file
  state.frame = requestAnimationFrame(follow);
  showButton();
}

function stop() {
  state.playing = -1;
  cancelAnimationFrame(state.frame);
  sound.pause();
  showButton();
}

function showButton() {
  $("play").textContent = state.playing >= 0 ? "■" : "▶";
  $("play").ariaLabel = state.playing >= 0 ? "Stop" : "Play";
}

function finished() {
  const next = $("through").checked ? step(1) : undefined;
  if (next === undefined) stop();
  else play(next);
}

function follow() {
  const u = utterances()[state.playing];
  head(state.spans[state.playing][0] + (state.timed ? sound.currentTime - (data.recording ? u.start : 0) : 0));
  if (data.recording && sound.currentTime >= u.end) return finished();
  state.frame = requestAnimationFrame(follow);
}

const toggle = (i) => (state.playing === i ? stop() : play(i));

// Charts: the timeline has a lane for each emotion, so that colour alone never tells them apart

const GUTTER = 62, RIGHT = 10, LANE = 18, CURVE = 92;

// From a time to x in an SVG
function scale(svg) {
  const width = svg.viewBox.baseVal.width - GUTTER - RIGHT;
  return (time) => GUTTER + (time / state.last) * width;
}

// An SVG with a time axis below `height`, filled by `fill(svg, x)`; on top the selected utterance and what is clicked
function chart(id, height, label, lines, fill) {
  const width = Math.max(200, $(id).clientWidth);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height + 18}`, height: height + 18, role: "img", "aria-label": label });
  const x = scale(svg), wanted = state.last / Math.max(2, (width - GUTTER) / 90);
  const size = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600].find((seconds) => seconds >= wanted) || 7200;
  for (let time = 0; time <= state.last; time += size) {
    const anchor = x(time) > width - 25 ? "end" : "middle", text = state.timed ? clock(time) : String(time + 1);
    svg.append(make("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: height }));
    svg.append(make("text", { x: x(time), y: height + 13, "text-anchor": anchor }, text));
  }
  for (const [y, text] of lines) {
    svg.append(make("line", { class: "grid", x1: GUTTER, x2: width, y1: y, y2: y }));
    svg.append(make("text", { x: GUTTER - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  fill(svg, x);
  svg.append(make("rect", { class: "band", y: 0, height }), make("rect", { class: "head", y: 0, width: 2, height }));
  state.spans.forEach(([start, end], i) => svg.append(
    make("rect", { class: "hit", "data-at": i, x: x(start), y: 0, width: Math.max(3, x(end) - x(start)), height })));
  $(id).replaceChildren(svg);
}

function drawTimeline() {
  const counts = data.emotions.map((name, label) => [name, utterances().filter((u) => u.label === label).length]);
  const spoken = counts.filter(([, n]) => n).map(([name, n]) => `${name} ${n}`).join(", ");
  const lanes = data.emotions.map((name, label) => [(label + 0.5) * LANE, name]);
  chart("timeline", 7 * LANE, `Timeline of ${utterances().length} utterances; predicted: ${spoken}`, lanes, (svg, x) => {
    utterances().forEach((u, i) => {
      const [start, end] = state.spans[i], width = Math.max(2, x(end) - x(start) - 1), off = matches(u) ? "" : " off";
      const block = (label, kind) => make("rect", { x: x(start), y: label * LANE + 3, width, height: LANE - 6, rx: 2, class: kind + off });
      svg.append(colour(block(u.label, "predicted"), u.label), ...(u.truth?.labels || []).map((label) => block(label, "true")));
    });
  });
}

function drawCurve(name) {
  const all = utterances(), y = (value) => 6 + ((5 - value) / 4) * (CURVE - 12), r = all.length > 60 ? 1.6 : 3;
  const mean = all.reduce((sum, u) => sum + u[name], 0) / all.length;
  const lines = [1, 2, 3, 4, 5].map((value) => [y(value), value % 2 ? String(value) : ""]);
  chart(name, CURVE, `Predicted ${name} over the dialogue, from 1 to 5, mean ${mean.toFixed(1)}`, lines, (svg, x) => {
    const middles = state.spans.map(([start, end]) => x((start + end) / 2));
    const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${middles[i].toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (all.every((u) => u.truth && name in u.truth)) {
      svg.append(make("path", { class: "curve raters", d: path(all.map((u) => u.truth[name])) }));
      all.forEach((u, i) => svg.append(
        make("rect", { class: "dot raters", x: middles[i] - r, y: y(u.truth[name]) - r, width: 2 * r, height: 2 * r })));
    }
    svg.append(make("path", { class: "curve", d: path(all.map((u) => u[name])) }));
    all.forEach((u, i) => {
      const [x1, sd] = [middles[i], u.sd?.[name] || 0];
      if (sd) svg.append(make("line", { class: "spread", x1, x2: x1, y1: y(u[name] - sd), y2: y(u[name] + sd) }));
      svg.append(make("circle", { class: "dot", cx: x1, cy: y(u[name]), r: r + 0.3 }));
    });
  });
}

function draw() {
  drawTimeline();
  drawCurve("arousal");
  drawCurve("valence");
  select(state.at, false);
}

// Events

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const walks = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (event.key in walks) walk(walks[event.key]);
  else if (event.key === "Escape") stop();
  else if (event.key === " " && !event.target.matches("button, input")) toggle(state.at);
  else return;
  event.preventDefault();
}

function onClick(event) {
  const element = event.target.closest("[data-at]");
  if (element && getSelection().isCollapsed) toggle(Number(element.dataset.at));
}

data.dialogues.forEach((dialogue, number) => $("picker").append(make("option", { value: number }, dialogue.name)));
$("pick").hidden = data.dialogues.length < 2;
document.body.classList.toggle("unlabelled", !data.dialogues.some((dialogue) => dialogue.utterances.some((u) => u.truth)));
$("picker").addEventListener("change", () => show(Number($("picker").value)));
$("previous-dialogue").addEventListener("click", () => show(state.number - 1));
$("next-dialogue").addEventListener("click", () => show(state.number + 1));
for (const id of ["verdict", "emotion"]) $(id).addEventListener("change", filter);
for (const id of ["rows", "overview"]) $(id).addEventListener("click", onClick);
$("play").addEventListener("click", () => (state.playing >= 0 ? stop() : play(state.at)));
$("back").addEventListener("click", () => walk(-1));
$("forward").addEventListener("click", () => walk(1));
document.addEventListener("keydown", onKey);
sound.addEventListener("ended", () => { if (state.playing >= 0) finished(); });
sound.addEventListener("error", () => {
  const url = decodeURI(sound.getAttribute("src").split("#")[0]);
  $("missing").textContent = `Audio not found at ${url}, relative to this page. The page contains no audio: do not move it.`;
  $("missing").hidden = false;
  stop();
});
addEventListener("resize", draw);
show(0);
