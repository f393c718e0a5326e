// The page of reports/dialogues.py. Everything that comes from a file is set as text, never as HTML.

const data = JSON.parse($("data").textContent);
const sound = $("sound");
// number: of the dialogue shown; at: of the selected utterance; playing: of the one that plays, or -1;
// timed: whether all utterances have times; spans: start and end of each on the time axis; last: the latest end;
// width: of the charts (px); chosen: whether the user has switched the compact view
const state = { number: 0, at: 0, playing: -1, frame: 0, timed: false, spans: [], last: 0, width: 0, chosen: false };
const utterances = () => data.dialogues[state.number].utterances;
const MANY = 100; // a dialogue of more utterances opens in the compact view

// A text in the language of the page
const say = (english, korean = data.korean[english]) => (document.documentElement.lang === "ko" ? korean : english);
const emotion = (label) => say(data.emotions[label]);
const speakersOf = (list) => [...new Set(list.map((u) => u.speaker))];
const nameOf = (speaker) => speaker || say("unknown speaker", "화자 미상");

function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "title", "rect", "line", "path", "circle", "text"].includes(tag);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)}%`;
const names = (labels) => labels.map(emotion).join(", ");
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

// The summary: the predictions of all dialogues, of the one shown and of each speaker in it

function summarise() {
  const own = utterances(), speakers = speakersOf(own), groups = [[data.dialogues[state.number].name, own]];
  if (data.dialogues.length > 1) {
    const all = data.dialogues.flatMap((dialogue) => dialogue.utterances);
    groups.unshift([say(`All ${data.dialogues.length} dialogues`, `전체 대화 ${data.dialogues.length}개`), all]);
  }
  if (speakers.length > 1) groups.push(...speakers.map((name) => [nameOf(name), own.filter((u) => u.speaker === name)]));
  $("groups").tBodies[0].replaceChildren(...groups.map(([name, list]) => summaryRow(name, list)));
  $("colours").replaceChildren(...data.emotions.map((_, label) =>
    make("span", { class: "key" }, colour(make("i"), label), ` ${emotion(label)}`)));
}

function summaryRow(name, list) {
  const n = list.length, judged = list.filter((u) => u.truth), right = judged.filter(isRight).length;
  const counts = data.emotions.map((_, label) => list.filter((u) => u.label === label).length);
  const spoken = counts.map((k, label) => `${emotion(label)} ${k} (${percent(k / n)})`);
  const stack = make("div", { class: "stack", role: "img", "aria-label": spoken.filter((_, label) => counts[label]).join(", ") });
  counts.forEach((k, label) => {
    const parts = [make("b", {}, emotion(label)), make("span", {}, percent(k / n))];
    if (k) stack.append(colour(make("span", { title: spoken[label], style: `flex: ${k} 1 0` }, ...parts), label));
  });
  const mean = (key) => (list.reduce((sum, u) => sum + u[key], 0) / n).toFixed(2);
  const share = judged.length ? `${percent(right / judged.length)} (${right}/${judged.length})` : "";
  const cells = [n.toLocaleString(), stack, mean("arousal"), mean("valence"), share];
  const heads = [say("utterances", "발화"), "", say("arousal"), say("valence"), say("agreement", "일치")]; // on a phone
  return make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell, i) => make("td", { "data-head": heads[i] }, cell)));
}

// The list of utterances

function bars(u) {
  const spoken = data.emotions.map((_, label) => `${emotion(label)} ${percent(u.p[label])}` + (u.sd ? ` ± ${percent(u.sd.p[label])}` : "") +
    (u.truth?.shares ? `, ${say("raters", "평가자")} ${percent(u.truth.shares[label])}` : ""));
  const bar = (share, kind, label) => colour(make("b", { class: kind, style: `height: ${100 * share}%` }), label);
  const columns = u.p.map((share, label) => {
    const pair = make("i", {}, bar(share, "share", label));
    if (u.truth?.shares?.[label]) pair.append(bar(u.truth.shares[label], "raters", label));
    const attributes = { class: label === u.label ? "top" : "", title: spoken[label] };
    return make("span", attributes, make("span", {}, percent(share)), pair, emotion(label));
  });
  return make("div", { class: "bars", role: "img", "aria-label": spoken.join("; ") }, ...columns);
}

const predicted = (u) => `${emotion(u.label)} ${percent(u.p[u.label])}`;
const judgement = (u, raters = say("raters: ", "평가자: ")) => `${isRight(u) ? "✓" : "✗"} ${raters}${names(u.truth.labels)}`;

// Speaker, prediction and the raters' label of an utterance, as a tooltip or a screen reader has them
const describe = (u, i) => [`${say("Utterance", "발화")} ${i + 1}`, u.speaker, `${say("predicted", "예측")} ${predicted(u)}`, u.truth && judgement(u)]
  .filter(Boolean).join(", ");

function row(u, i) {
  const compact = $("compact").checked, line = make("div", { class: "line" }, make("button", { "aria-label": `${say("Play", "재생")}: ${describe(u, i)}` }, `▶ ${i + 1}`));
  if (state.timed) line.append(make("span", { class: "time" }, state.spans[i].map(clock).join(" – ")));
  if (u.speaker) line.append(make("span", { class: "speaker", title: u.speaker }, u.speaker));
  if (!u.sound) line.append(make("span", { class: "time" }, say("no audio", "음성 없음")));
  const judged = make("p", { class: "line verdict" }, colour(make("span", { class: "chip" }, predicted(u)), u.label));
  if (u.truth) judged.append(make("span", { class: isRight(u) ? "right" : "wrong" }, judgement(u, compact ? "" : undefined)));
  const affect = ["arousal", "valence"].map((name) => `${say(name)} ${u[name].toFixed(1)}` + (u.sd ? ` ± ${u.sd[name].toFixed(1)}` : "") +
    (u.truth && name in u.truth ? ` (${say("raters", "평가자")} ${u.truth[name].toFixed(1)})` : ""));
  const side = make("div", { class: "side" }, ...(compact ? [] : [bars(u)]), make("p", { class: "affect" }, affect.join(", ")));
  const text = make("p", { class: u.text ? "text" : "text none" }, u.text || say("no transcript", "전사 없음"));
  return colour(make("li", { class: "card", "data-at": i }, line, text, judged, side), u.label);
}

function matches(u) {
  const verdict = $("verdict").value, label = $("emotion").value, words = $("search").value.trim().toLowerCase();
  if (verdict && String(Boolean(isRight(u))) !== verdict) return false;
  if (words && ![u.text, u.speaker].some((text) => text?.toLowerCase().includes(words))) return false;
  return label === "" || [u.label, ...(u.truth?.labels || [])].includes(Number(label));
}

const shown = () => [...$("rows").children].flatMap((element, i) => (element.hidden ? [] : [i]));

function filter() {
  const all = utterances(), blocks = $("timeline").querySelectorAll("[data-at]");
  [...$("rows").children].forEach((element, i) => {
    element.hidden = !matches(all[i]);
    blocks[i].classList.toggle("off", element.hidden);
  });
  const n = shown().length;
  $("count").textContent = say(`${n} of ${all.length} utterances`, `발화 ${all.length}개 중 ${n}개`);
  $("empty").hidden = n > 0;
}

function list() {
  document.body.classList.toggle("compact", $("compact").checked);
  const longest = Math.max(...utterances().map((u) => u.speaker?.length || 0));
  $("rows").style.setProperty("--speaker", `${Math.min(9, 0.65 * longest + 0.5)}em`);
  $("rows").replaceChildren(...utterances().map(row));
  draw();
}

function show(number) {
  stop();
  Object.assign(state, { number, at: 0 });
  measure();
  $("picker").value = number;
  $("previous-dialogue").disabled = number === 0;
  $("next-dialogue").disabled = number === data.dialogues.length - 1;
  if (!state.chosen) $("compact").checked = utterances().length > MANY;
  summarise();
  list();
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
  if ($("zoom").value > 0) $("charts").scrollLeft = scale($("timeline").firstChild)(start) - state.width / 3;
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
  $("play").ariaLabel = state.playing >= 0 ? say("Stop", "정지") : say("Play", "재생");
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

// Charts: the timeline has a lane for each speaker; a block too narrow for its label has a tooltip

const RIGHT = 10, BLOCK = 22, STRIP = 15, CURVE = 92; // pixels
const SMOOTH = 15; // utterances at each side, of the mean drawn for a dialogue of `LONG` or more
const LONG = 300;
const gutterOf = (width) => (width > 700 ? 110 : 62); // for the names of lanes

// From a time to x in an SVG; its `time` is the inverse
function scale(svg) {
  const all = svg.viewBox.baseVal.width, gutter = gutterOf(state.width), width = all - gutter - RIGHT;
  return Object.assign((time) => gutter + (time / state.last) * width, { time: (x) => ((x - gutter) / width) * state.last });
}

// An SVG with a time axis below `height`, filled by `fill(svg, x)`; on top the selected utterance and what is clicked
function chart(id, height, label, lines, fill) {
  const width = Math.max(200, state.width) * 2 ** $("zoom").value, gutter = gutterOf(state.width);
  const size = { viewBox: `0 0 ${width} ${height + 18}`, height: height + 18, width };
  const svg = make("svg", { ...size, class: "chart", role: "img", "aria-label": label });
  const x = scale(svg), wanted = state.last / Math.max(2, (width - gutter) / 90);
  const interval = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600].find((seconds) => seconds >= wanted) || 7200;
  for (let time = 0; time <= state.last; time += interval) {
    const anchor = x(time) > width - 25 ? "end" : "middle", text = state.timed ? clock(time) : String(time + 1);
    svg.append(make("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: height }));
    svg.append(make("text", { x: x(time), y: height + 13, "text-anchor": anchor }, text));
  }
  const axis = make("g", { class: "axis" }, make("rect", { width: gutter - 4, height: height + ($("zoom").value > 0 ? 18 : 0) }));
  for (const [y, text] of lines) {
    svg.append(make("line", { class: "grid", x1: gutter, x2: width, y1: y, y2: y }));
    axis.append(make("text", { x: gutter - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  fill(svg, x);
  svg.append(make("rect", { class: "band", y: 0, height }), make("rect", { class: "head", y: 0, width: 2, height }), axis);
  $(id).replaceChildren(svg);
}

// A rectangle of an emotion, and its name or the name's first letters where these fit
function block(label, x, y, width, height, kind, ofText) {
  const parts = [colour(make("rect", { x, y, width, height, rx: 2, class: kind }), label)];
  const name = [emotion(label), emotion(label).slice(0, 3)].find((text) => text.length * (text > "~" ? 12 : 6.5) + 4 < width);
  if (name) parts.push(make("text", { x: x + width / 2, y: y + height / 2 + 4, class: ofText }, name));
  return parts;
}

function drawTimeline() {
  const all = utterances(), speakers = speakersOf(all), height = BLOCK + (all.some((u) => u.truth) ? STRIP + 2 : 0) + 8;
  const n = Math.floor(gutterOf(state.width) / 7), shorten = (name) => (name.length > n ? `${name.slice(0, n - 4)}…${name.slice(-3)}` : name);
  const lanes = speakers.map((name, i) => [i * height + BLOCK / 2 + 4, shorten(name ?? "")]);
  const label = say(`Timeline of ${all.length} utterances`, `발화 ${all.length}개의 타임라인`);
  chart("timeline", speakers.length * height, label, lanes, (svg, x) => {
    all.forEach((u, i) => {
      const [start, end] = state.spans[i].map(x), y = speakers.indexOf(u.speaker) * height + 4, width = Math.max(1.5, end - start - 1);
      const labels = u.truth?.labels || [], part = width / labels.length;
      svg.append(make("g", { class: "block", "data-at": i }, make("title", {}, describe(u, i)),
        ...block(u.label, start, y, width, BLOCK, "predicted", ""),
        ...labels.flatMap((truth, k) => block(truth, start + k * part, y + BLOCK + 2, part, STRIP, "true", "of-raters"))));
    });
  });
}

const smooth = (values) => values.map((_, i) => {
  const near = values.slice(Math.max(0, i - SMOOTH), i + SMOOTH + 1);
  return near.reduce((sum, value) => sum + value, 0) / near.length;
});

function drawCurve(name) {
  const all = utterances(), isLong = all.length >= LONG, y = (value) => 6 + ((5 - value) / 4) * (CURVE - 12), r = all.length > 60 ? 1.6 : 3;
  const mean = all.reduce((sum, u) => sum + u[name], 0) / all.length;
  const lines = [1, 2, 3, 4, 5].map((value) => [y(value), value % 2 ? String(value) : ""]);
  const label = say(`Predicted ${name}, from 1 to 5, mean ${mean.toFixed(1)}`, `${say(name)} 예측(1~5), 평균 ${mean.toFixed(1)}`);
  chart(name, CURVE, label, lines, (svg, x) => {
    const middles = state.spans.map(([start, end]) => x((start + end) / 2));
    const path = (values) => values.map((value, i) => `${i ? "L" : "M"}${middles[i].toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (all.every((u) => u.truth && name in u.truth)) {
      svg.append(make("path", { class: "curve raters", d: path(all.map((u) => u.truth[name])) }));
      all.forEach((u, i) => svg.append(
        make("rect", { class: "dot raters", x: middles[i] - r, y: y(u.truth[name]) - r, width: 2 * r, height: 2 * r })));
    }
    svg.append(make("path", { class: "curve", d: path(isLong ? smooth(all.map((u) => u[name])) : all.map((u) => u[name])) }));
    all.forEach((u, i) => {
      const [x1, sd] = [middles[i], u.sd?.[name] || 0];
      if (sd) svg.append(make("line", { class: "spread", x1, x2: x1, y1: y(u[name] - sd), y2: y(u[name] + sd) }));
      svg.append(make("circle", { class: "dot", cx: x1, cy: y(u[name]), r: r + 0.3 }));
    });
  });
}

function draw() {
  state.width = $("charts").clientWidth;
  const isLong = utterances().length >= LONG, n = 2 * SMOOTH + 1;
  document.body.classList.toggle("long", isLong);
  $("smoothed").textContent = isLong ? say(`(line: mean over ${n} utterances)`, `(선: 발화 ${n}개의 평균)`) : "";
  drawTimeline();
  drawCurve("arousal");
  drawCurve("valence");
  filter();
  select(state.at, false);
}

// Events

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, [type=search], [type=range]")) return;
  const walks = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (event.key in walks) walk(walks[event.key]);
  else if (event.key === "Escape") stop();
  else if (event.key === " " && !event.target.matches("button, input")) toggle(state.at);
  else return;
  event.preventDefault();
}

function onClick(event) {
  const element = event.target.closest("[data-at]"), svg = event.target.closest(".chart");
  if (element && getSelection().isCollapsed) toggle(Number(element.dataset.at));
  else if (svg) toggle(nearest(scale(svg).time(event.clientX - svg.getBoundingClientRect().left)));
}

function nearest(time) {
  const distances = state.spans.map(([start, end]) => Math.max(start - time, time - end, 0));
  return distances.indexOf(Math.min(...distances));
}

data.dialogues.forEach((dialogue, number) => $("picker").append(make("option", { value: number }, dialogue.name)));
$("pick").hidden = data.dialogues.length < 2;
document.body.classList.toggle("unlabelled", !data.dialogues.some((dialogue) => dialogue.utterances.some((u) => u.truth)));
$("picker").addEventListener("change", () => show(Number($("picker").value)));
$("previous-dialogue").addEventListener("click", () => show(state.number - 1));
$("next-dialogue").addEventListener("click", () => show(state.number + 1));
for (const id of ["verdict", "emotion", "search"]) $(id).addEventListener("input", filter);
$("compact").addEventListener("change", () => { state.chosen = true; list(); });
$("zoom").addEventListener("input", draw);
$("charts").addEventListener("scroll", () => document.querySelectorAll(".axis").forEach((axis) =>
  axis.setAttribute("transform", `translate(${$("charts").scrollLeft} 0)`)));
for (const id of ["rows", "overview"]) $(id).addEventListener("click", onClick);
$("play").addEventListener("click", () => (state.playing >= 0 ? stop() : play(state.at)));
$("back").addEventListener("click", () => walk(-1));
$("forward").addEventListener("click", () => walk(1));
document.addEventListener("keydown", onKey);
sound.addEventListener("ended", () => { if (state.playing >= 0) finished(); });
sound.addEventListener("error", () => {
  let url = sound.getAttribute("src").split("#")[0];
  try { url = decodeURI(url); } catch { /* a file name that is not in UTF-8 */ }
  $("missing").textContent = say(
    `Audio file not found: ${url} (relative to this page). The page does not contain the audio; keep it in its original folder.`,
    `음성 파일을 찾을 수 없습니다: ${url}(이 페이지 기준 경로). 이 페이지에는 음성이 들어 있지 않으므로 원래 폴더에 두십시오.`);
  $("missing").hidden = false;
  stop();
});
addEventListener("resize", () => { if ($("charts").clientWidth !== state.width) draw(); });
addEventListener("language", () => { summarise(); list(); showButton(); });
show(0);
