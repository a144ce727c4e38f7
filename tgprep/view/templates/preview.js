"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
document.getElementById("data").textContent = "";
const $ = (id) => document.getElementById(id);
const CLASSES_AT_FIRST = 48;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const whole = (number) => number.toLocaleString("en-US");
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
function bytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

/* ---- roles: name -> colour ---- */
const roleNames = data.roles;
const roleKey = (index) => (index === roleNames.length - 1 ? "" : roleNames[index]);
const COLOURS = roleNames[0] === "labelled" ? ["--r0", "--r1", "--r2", "--r3", "--r4"] :
  ["--r0", "--r2", "--r3", ...(roleNames.length > 4 ? ["--r1"] : []), "--r4"];
const colour = (index) => `var(${COLOURS[index]})`;
const roleTotals = roleNames.map((_, index) => data.classes.reduce((sum, entry) => sum + entry.counts[index], 0));
const usedRoles = roleNames.map((_, index) => index).filter((index) => roleTotals[index] > 0);
const total = (entry) => entry.counts.reduce((sum, count) => sum + count, 0);
const roleLabel = (name) => (name === "unlabelled" && data.split ? "unlabelled" : name || roleNames[roleNames.length - 1]);

/* ---- head ---- */
$("eyebrow").textContent = `tgprep preview · ${data.dataset} · digest ${data.digest}`;
$("title").textContent = data.title;
document.title = `${data.title}: preview`;
const shownAll = data.videos.length === data.numWritten;
$("sub").textContent =
  `${shownAll ? "All" : whole(data.videos.length) + " of"} ${plural(data.numWritten, "video")}${shownAll ? "" : ", spread evenly over classes,"} with RGB frames ` +
  `and their temporal gradient (TG ${data.gradient}; grey means no motion). ` +
  (data.split ? `Parts as in split ${data.split}.` : "Parts as in official fold 1; there is no split yet.");
const realClasses = data.numWithoutLabel ? data.classes.slice(0, -1) : data.classes; // the last one stands for "no label"
const usedClasses = realClasses.filter((entry) => total(entry) > 0).length;
for (const [name, value, bad] of [
  ["videos", whole(data.numWritten)],
  ["classes", usedClasses === realClasses.length ? whole(usedClasses) : `${whole(usedClasses)} of ${whole(realClasses.length)}`],
  ...(data.numWithoutLabel ? [["without label", whole(data.numWithoutLabel)]] : []),
  ["frames", whole(data.numFrames)],
  ["median frames", whole(data.lengths.median)],
  [plural(data.numShards, "shard"), bytes(data.numBytes)],
  ["failed", whole(data.numFailed), data.numFailed > 0],
  ...(data.numSkipped ? [["skipped", whole(data.numSkipped), true]] : []),
]) {
  $("tiles").append(make("div", bad ? { class: "bad" } : {}, make("dt", { text: name }), make("dd", { text: value })));
}

/* ---- pictures: made when a card comes near the screen, let go when it is far ---- */
function picture(base64) {
  const text = atob(base64), array = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) array[place] = text.charCodeAt(place);
  return URL.createObjectURL(new Blob([array], { type: "image/webp" }));
}
const loaded = new Map();
const SHEETS = [["clip", 0, "--clip-rgb"], ["clip", 1, "--clip-tg"], ["strip", 0, "--strip-rgb"], ["strip", 1, "--strip-tg"]];
function load(element, video) {
  if (loaded.has(element) || !video.clip) return;
  loaded.set(element, SHEETS.map(([sheet, kind, name]) => {
    const url = picture(video[sheet][kind]);
    element.style.setProperty(name, `url("${url}")`);
    return url;
  }));
}
function unload(element) {
  for (const url of loaded.get(element) || []) URL.revokeObjectURL(url);
  loaded.delete(element);
  for (const [, , name] of SHEETS) element.style.removeProperty(name);
}
const cards = new Map(), twinCards = new Map(); // element -> video
const videoOf = (element) => cards.get(element) || twinCards.get(element);
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? load(target, videoOf(target)) : unload(target);
}, { rootMargin: "600px" });
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.classList.toggle("playing", isIntersecting && playing);
});

function style(element, video) {
  const [width, height] = video.size;
  const aspect = Math.min(2.4, width / height);
  element.style.setProperty("--aspect", aspect);
  element.style.setProperty("--n", video.clipTiles || 1);
  element.style.setProperty("--t", `${Math.max(0.4, video.clipSeconds || 1)}s`);
  element.style.setProperty("--strip-aspect", aspect * (video.tiles || 1));
}
function pictures(video) {
  if (!video.clip) return [make("p", { class: "empty flag", text: `Its frames cannot be read: ${video.error}` })];
  return [
    make("div", { class: "pair" }, make("div", { class: "tile rgb", role: "img", "aria-label": `RGB clip of ${video.key}` }), make("div", { class: "tile tg", role: "img", "aria-label": `Temporal gradient of ${video.key}` })),
    make("div", { class: "strip", "aria-hidden": "true" }, make("div", { class: "rgb" }), make("div", { class: "tg" })),
  ];
}
function roleChip(video) {
  const index = video.role ? roleNames.indexOf(video.role) : roleNames.length - 1;
  return make("span", { class: "role" }, make("i", { style: `background: ${colour(index)}` }), roleLabel(video.role));
}
const stem = (key) => key.slice(key.indexOf("/") + 1);
data.videos.forEach((video, place) => {
  const card = make("button", { class: "video card", type: "button", "data-key": video.key }, ...pictures(video),
    make("div", { class: "words" }, make("b", { text: stem(video.key), title: video.key }),
      make("span", {}, make("span", { text: video.class }), roleChip(video), make("span", { text: plural(video.count, "frame") }),
        ...(video.note ? [make("span", { class: "flag", text: "noted", title: video.note })] : []),
        ...(video.twins?.includes("leak") ? [make("span", { class: "flag leak", text: "leak" })] : []))));
  style(card, video);
  video.place = place;
  video.card = card;
  video.words = `${video.key} ${video.path} ${video.class} ${video.group} ${video.note} ${video.codec}`.toLowerCase();
  cards.set(card, video);
  card.addEventListener("click", () => open(video));
  near.observe(card);
  seen.observe(card);
});
$("cards").append(...cards.keys());

/* ---- classes ---- */
const byClass = new Map(data.classes.map((entry) => [entry.name, []]));
for (const video of data.videos) byClass.get(video.class)?.push(video);
const thumbs = new Map();
const nearThumb = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const video = thumbs.get(target);
    if (!isIntersecting || !video?.strip) continue;
    nearThumb.unobserve(target);
    const image = new Image(), url = picture(video.strip[0]);
    image.onload = () => {
      const wide = image.width / video.tiles, high = image.height;
      const canvas = make("canvas", {});
      canvas.width = 96;
      canvas.height = 72;
      const scale = Math.max(96 / wide, 72 / high), left = Math.floor(video.tiles / 2) * wide;
      canvas.getContext("2d").drawImage(image, left + (wide - 96 / scale) / 2, (high - 72 / scale) / 2, 96 / scale, 72 / scale, 0, 0, 96, 72);
      canvas.className = "thumb";
      target.replaceWith(canvas);
      URL.revokeObjectURL(url);
    };
    image.src = url;
  }
}, { rootMargin: "300px" });
const classButtons = data.classes.map((entry, label) => {
  const sum = total(entry), thumb = make("div", { class: "thumb" });
  const mix = make("i", { class: "mix" });
  for (const index of usedRoles) if (entry.counts[index]) mix.append(make("i", { style: `width: ${(100 * entry.counts[index]) / sum}%; background: ${colour(index)}` }));
  const button = make("button", { class: `class card${sum ? "" : " none"}`, type: "button", "aria-pressed": "false", "data-class": entry.name, title: label < realClasses.length ? `${entry.name}, label ${label}` : entry.name },
    thumb, make("b", { text: entry.name }), make("span", {}, plural(sum, "video"), mix));
  button.addEventListener("click", () => choose({ class: $("class").value === entry.name ? "" : entry.name }, false));
  const shown = byClass.get(entry.name);
  if (shown.length) {
    thumbs.set(thumb, shown[Math.floor(shown.length / 2)]);
    nearThumb.observe(thumb);
  }
  return button;
});
const filled = classButtons.filter((button) => !button.classList.contains("none"));
const empties = classButtons.filter((button) => button.classList.contains("none"));
const atFirst = filled.length > CLASSES_AT_FIRST + 8 ? CLASSES_AT_FIRST : filled.length;
$("classes").append(...filled, ...empties);
if (atFirst < classButtons.length) {
  const more = [...filled, ...empties].slice(atFirst);
  const fold = (folded) => {
    for (const button of more) button.hidden = folded;
    $("all-classes").textContent = !folded ? "Show fewer" : atFirst < filled.length
      ? `Show all ${whole(classButtons.length)} classes` : `Show ${whole(empties.length)} without videos`;
    $("all-classes").setAttribute("aria-expanded", String(!folded));
  };
  $("all-classes").hidden = false;
  $("all-classes").addEventListener("click", () => fold($("all-classes").getAttribute("aria-expanded") === "true"));
  fold(true);
}

/* ---- filters; they are kept in the address, so that a view can be sent on ---- */
function options(select, all, entries) {
  select.replaceChildren(make("option", { value: "", text: all }), ...entries.map(([value, text]) => make("option", { value, text })));
}
const UNUSED = "(none)";
options($("class"), "all classes", [...byClass].filter(([, videos]) => videos.length).map(([name, videos]) => [name, `${name} (${videos.length})`]));
options($("role"), "all parts", usedRoles.map((index) => [roleKey(index) || UNUSED, roleLabel(roleKey(index))]));
function fillGroups() {
  const before = $("group").value, name = $("class").value;
  const groups = [...new Set(data.videos.filter((video) => !name || video.class === name).map((video) => video.group))].filter(Boolean).sort();
  options($("group"), groups.length ? "all groups" : "no groups", groups.map((group) => [group, group]));
  $("group").disabled = !groups.length;
  $("group").value = groups.includes(before) ? before : "";
}
const fields = ["text", "class", "role", "group", "note", "twin"];
const WITH = "(any)";
const noteCounts = new Map();
for (const { note } of data.videos) if (note) noteCounts.set(note, (noteCounts.get(note) || 0) + 1);
const withNote = [...noteCounts.values()].reduce((a, b) => a + b, 0);
options($("note"), "all", [
  [WITH, `with a note (${withNote})`], [UNUSED, "without a note"],
  ...[...noteCounts].sort((a, b) => b[1] - a[1]).slice(0, 20).map(([note, count]) => [note, `${note.length > 60 ? note.slice(0, 59) + "…" : note} (${count})`]),
]);
$("note").disabled = !withNote;
const twinKinds = ["leak", "near-copy", "same file", "same group"].map((kind) => [kind, data.videos.filter((video) => video.twins?.includes(kind)).length]).filter(([, count]) => count);
const withTwin = data.videos.filter((video) => video.twins).length;
options($("twin"), data.leaks.knowsCopies || withTwin ? "all" : "not searched for", [
  ...(withTwin ? [[WITH, `with a pair (${withTwin})`], [UNUSED, "without a pair"]] : []),
  ...twinKinds.map(([kind, count]) => [kind, `${kind === "leak" ? "in train and test" : kind} (${count})`]),
]);
$("twin").disabled = !withTwin;
const fitsNote = (video, asked) => !asked || (asked === WITH ? video.note : asked === UNUSED ? !video.note : video.note === asked);
const fitsTwin = (video, asked) => !asked || (asked === WITH ? video.twins : asked === UNUSED ? !video.twins : video.twins?.includes(asked));
let visible = data.videos;
function apply() {
  fillGroups();
  const [text, name, role, group, note, twin] = fields.map((field) => $(field).value);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  visible = data.videos.filter((video) =>
    (!name || video.class === name) && (!group || video.group === group) && fitsNote(video, note) && fitsTwin(video, twin) &&
    (!role || (video.role || UNUSED) === role) && words.every((word) => video.words.includes(word)));
  const kept = new Set(visible);
  for (const video of data.videos) video.card.hidden = !kept.has(video);
  $("empty").hidden = visible.length > 0 || data.videos.length === 0;
  $("shown").textContent = visible.length === data.videos.length ? plural(visible.length, "video") : `${whole(visible.length)} of ${plural(data.videos.length, "video")}`;
  $("clear").hidden = !fields.some((field) => $(field).value);
  for (const button of classButtons) button.setAttribute("aria-pressed", String(button.dataset.class === name));
  const address = new URLSearchParams(fields.map((field) => [field, $(field).value]).filter(([, value]) => value)).toString();
  if (location.hash.slice(1) !== address) {
    try { history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search); } catch { /* some viewers forbid it */ }
  }
}
function choose(values, scroll = true) {
  for (const [field, value] of Object.entries(values)) $(field).value = value;
  apply();
  if (scroll) $("videos").scrollIntoView({ block: "start" });
}
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  $("text").value = asked.get("text") || "";
  for (const field of ["class", "role", "note", "twin"]) $(field).value = [...$(field).options].some((option) => option.value === asked.get(field)) ? asked.get(field) : "";
  fillGroups();
  if ([...$("group").options].some((option) => option.value === asked.get("group"))) $("group").value = asked.get("group");
  apply();
}
for (const field of fields) $(field).addEventListener("input", apply);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => { choose(Object.fromEntries(fields.map((field) => [field, ""])), false); $("text").focus(); });
$("role-name").textContent = data.split ? "Part of the split" : "Part";
$("contrast").addEventListener("input", () => document.body.style.setProperty("--contrast", $("contrast").value));
function showPlaying() {
  $("play").textContent = playing ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", String(playing));
}
$("play").addEventListener("click", () => {
  playing = !playing;
  showPlaying();
  for (const card of [...cards.keys(), ...twinCards.keys()]) { seen.unobserve(card); seen.observe(card); }
  $("detail-body").classList.toggle("playing", playing);
});
showPlaying();
window.addEventListener("hashchange", fromAddress);

/* ---- one video ---- */
let current = null;
function open(video) {
  current = video;
  const body = $("detail-body");
  unload(body);
  style(body, video);
  load(body, video);
  body.classList.toggle("playing", playing);
  $("detail-title").textContent = video.key;
  const [pair, strip] = pictures(video);
  body.replaceChildren(pair);
  if (strip) {
    const [from, to] = video.clipFrames;
    body.prepend(make("h3", { text: `Frames ${from} to ${to} as they move, RGB and TG` }));
    body.append(make("h3", { text: `The whole video: frames ${video.frames.join(", ")}` }), strip);
  }
  const facts = [
    ["Class", `${video.class}, label ${video.label}`], ["Part", roleLabel(video.role)], ["Group", video.group || "none"],
    ["Length", `${plural(video.count, "frame")}${video.fps ? `, ${(video.count / video.fps).toFixed(1)} s at ${video.fps} fps` : ""}`],
    ["Motion", video.motion === undefined ? "" : `${video.motion} grey levels a pixel, mean over the frames shown`],
    ["Picture", `${video.size[0]} × ${video.size[1]}`], ["Codec", video.codec], ["Source", video.path + (video.times.length ? `, ${video.times[0]} to ${video.times[1]} s` : "")], ["Shard", video.shard], ["Note", video.note],
  ].filter(([, value]) => value);
  body.append(make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })])));
  if (!$("detail").open) $("detail").showModal();
  $("detail").scrollTop = 0;
}
function step(by) {
  const place = visible.indexOf(current);
  if (place >= 0 && visible.length) open(visible[(place + by + visible.length) % visible.length]);
}
$("before").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
let before = null; // what had the focus
$("detail").addEventListener("close", () => { unload($("detail-body")); (before || current?.card)?.focus(); before = null; });
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if ($("detail").open) {
    if (by) { event.preventDefault(); step(by); }
    return;
  }
  const typing = /INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName || "");
  if (event.key === "/" && !typing) { event.preventDefault(); $("text").focus(); }
  const video = cards.get(document.activeElement);
  if (!video) return;
  const columns = getComputedStyle($("cards")).gridTemplateColumns.split(" ").length;
  const move = by || { ArrowUp: -columns, ArrowDown: columns }[event.key];
  const target = move && visible[visible.indexOf(video) + move];
  if (target) { event.preventDefault(); target.card.focus(); }
});

/* ---- pairs: videos that show the same, those in train and test first ---- */
const byKey = new Map(data.videos.map((video) => [video.key, video]));
const KINDS = { "near-copy": "near-copies", "same file": "equal files", "same group": "videos of one group" };
const counted = (counts) => Object.entries(counts).filter(([, count]) => count).map(([kind, count]) => `${whole(count)} of ${KINDS[kind]}`).join(", ");
const numLeaks = Object.values(data.leaks.numLeaks).reduce((a, b) => a + b, 0);
const numPairs = Object.values(data.leaks.numPairs).reduce((a, b) => a + b, 0);
if (numPairs) {
  $("pairs").hidden = false;
  $("pairs").open = numLeaks > 0;
  $("pairs-title").textContent = numLeaks ? `${plural(numLeaks, "pair")} in both train and test` : plural(numPairs, "pair") + " of videos that show the same";
  $("pairs").classList.toggle("bad", numLeaks > 0);
  $("pairs-note").textContent = (numLeaks ? `A test on these videos is not clean: ${counted(data.leaks.numLeaks)}. ` : "") + `All pairs: ${counted(data.leaks.numPairs)}.` +
    (numPairs > data.leaks.pairs.length ? ` ${whole(data.leaks.pairs.length)} are shown, those in train and test first.` : "");
  for (const [first, second, kind, leak] of data.leaks.pairs) {
    const sides = [first, second].map((key) => {
      const video = byKey.get(key);
      if (!video) return make("p", { class: "small", text: `${key} (not on this page)` });
      const side = make("button", { class: "video", type: "button", "aria-label": `Open ${key}` }, pictures(video)[0], make("div", { class: "words" }, make("b", { text: stem(key), title: key }), make("span", {}, make("span", { text: video.class }), roleChip(video))));
      style(side, video);
      twinCards.set(side, video);
      near.observe(side);
      seen.observe(side);
      side.addEventListener("click", () => { before = side; open(video); });
      return side;
    });
    $("pair-list").append(make("div", { class: `twins card${leak ? " leak" : ""}` }, make("p", { class: "small", text: kind + (leak ? ", in train and test" : "") }), ...sides));
  }
} else if (!data.leaks.knowsCopies) {
  $("pairs-hint").hidden = false;
}

/* ---- what failed ---- */
if (data.failures.total) {
  $("failures").hidden = false;
  const reasons = new Map();
  for (const { reason } of data.failures.rows) reasons.set(reason, (reasons.get(reason) || 0) + 1);
  const summary = [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 5).map(([reason, count]) => `${count} × ${reason}`).join("; ");
  $("failures-note").textContent = `${plural(data.failures.total, "file")} failed or ${data.failures.total === 1 ? "was" : "were"} skipped: ${summary}.` +
    (data.failures.total > data.failures.rows.length ? ` The first ${whole(data.failures.rows.length)} are listed; videos.parquet has them all.` : "");
  $("failures").querySelector("tbody").append(...data.failures.rows.map((entry) =>
    make("tr", {}, make("td", { text: entry.path }), make("td", { text: entry.status }), make("td", { text: entry.reason }))));
}
$("foot").textContent = `Made by tgprep ${data.version} preview. One file, nothing is loaded from the network. Keys: / search, arrows move, Enter opens, Esc closes.`;
document.body.style.setProperty("--contrast", "2");
fromAddress();
