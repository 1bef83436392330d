"use strict";
// What the page does with the embedded record: the choice, the code to paste, the curves.
// Names from the record are only ever set as text, never read as HTML.
const record = JSON.parse(document.getElementById("record").textContent);
const $ = (id) => document.getElementById(id);
const [LEVEL, AREA, CASE, MEASURE, BIN, COUNT, VALUE, LOW, HIGH] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const ROUNDING = 1e-9, LOSSLESS = "exact", WORST = "worst";
const SVG = "http://www.w3.org/2000/svg";
const MARKS = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-3.6,-3.6h7.2v7.2h-7.2z", "M0,-4.8L4.6,3.6H-4.6z",
  "M0,-5L5,0L0,5L-5,0z", "M0,4.8L4.6,-3.6H-4.6z", "M-1.6,-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function digits(value, count = 3) {
  if (value === null) return "not known";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(count - 1) : String(Number(value.toPrecision(count)));
}
const isRate = (measure) => measure.unit === "fraction";
function amount(value, measure, count = 3) {
  if (value === null) return "not known";
  return isRate(measure) ? `${digits(100 * value, count)} %` : `${digits(value, count)} ${measure.unit}`.trim();
}
function bytes(value) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (value < 999.5) return `${digits(value)} ${unit}`;
    value /= 1000;
  }
  return `${digits(value)} PB`;
}
// The end of an interval that lies farther from 0: a bias may be negative.
const endOf = (row) => (row[HIGH] === null ? null : Math.max(Math.abs(row[LOW]), Math.abs(row[HIGH])));
function options(select, items, chosen) {
  select.replaceChildren(...items.map(([value, text]) => make("option", { value }, text)));
  select.value = String(chosen);
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

// The choice, by the rule of skyfold.fidelity.choice.
const rowAt = new Map(record.rows.map((row) => [row.slice(0, 5).join(), row]));
const storedAt = new Map(record.stored.map((row) => [`${row[0]},${row[1]}`, row]));

function state() {
  const one = record.cases[$("case").value];
  const measure = one.measures[$("measure").value];
  const shown = Number($("most").value);
  return {
    one, measure, need: measure.needs[$("bin").value], shown: String(shown), lossy: $("lossy").checked,
    most: $("most").value === "" || !(shown >= 0) ? NaN : isRate(measure) ? shown / 100 : shown,
    areas: areasOf($("case").value, $("area").value),
  };
}
function areasOf(number, chosen) {
  if (chosen !== "all" && chosen !== WORST) return [Number(chosen)];
  const used = record.rows.filter((row) => row[CASE] === Number(number));
  const kinds = new Set(used.map((row) => record.areas[row[AREA]].kind));
  return record.areas.flatMap((area, i) => (kinds.has(area.kind) ? [i] : []));
}
const rateIn = (areas) => `bits per ${areas.some((i) => record.areas[i].kind === "images") ? "pixel" : "value"}`;
function cost(level, areas) {
  const here = areas.map((area) => storedAt.get(`${level},${area}`));
  if (here.some((row) => !row)) return null;
  const total = here.reduce((sum, row) => sum + row[2], 0);
  return { bytes: total, bpp: total / here.reduce((sum, row) => sum + row[2] / row[3], 0) };
}
function judge(now) {
  const number = [Number($("case").value), Number($("measure").value)];
  const verdicts = record.levels.flatMap((name, level) => {
    const price = cost(level, now.areas);
    if (now.lossy && name === LOSSLESS) return [];
    if (!now.areas.some((area) => storedAt.has(`${level},${area}`))) return []; // of another kind
    let worst = { ratio: -1 };
    for (const area of now.areas) for (const bin of [...now.need.required, ...now.need.checked]) {
      const row = rowAt.get([level, area, ...number, bin].join());
      const high = row ? endOf(row) : null, must = now.need.required.includes(bin);
      const ratio = high === null ? (must ? Infinity : 0) : now.most === 0 ? (high ? Infinity : 0) : high / now.most;
      if (ratio > worst.ratio) worst = { ratio, high, area, bin };
    }
    if (price && name === LOSSLESS) worst.ratio = 0;
    return [{ level, name, ...worst, ratio: price ? worst.ratio : Infinity, ...(price || { bytes: Infinity, bpp: NaN }) }];
  });
  return verdicts.sort((a, b) => a.bytes - b.bytes || a.level - b.level);
}
const meets = (verdict) => verdict.ratio <= 1 + ROUNDING;

// My area, or my rows.
const rowsOf = (now) => now.areas.reduce((sum, area) => sum + (record.areas[area].rows || 0), 0); // 0 of images
const rateName = (now) => (rowsOf(now) ? "bytes per row" : rateIn(now.areas));
const rateOf = (verdict, now) => (rowsOf(now) ? verdict.bytes / rowsOf(now) : verdict.bpp);
function pixelsOf(now) {
  const number = Math.max(Number($("amount").value) || 0, 0);
  if ($("amount-unit").value === "Mpixel") return 1e6 * number;
  const sizes = now.areas.map((area) => record.areas[area].pixel_deg2).filter((size) => size);
  return number / (sizes.reduce((sum, size) => sum + size, 0) / sizes.length);
}
function priceOf(verdict, now) {
  if (!Number.isFinite(verdict.bpp)) return "not stored everywhere";
  return bytes(rowsOf(now) ? rateOf(verdict, now) * 1e6 * Math.max(Number($("amount").value) || 0, 0) : (verdict.bpp * pixelsOf(now)) / 8);
}

function fillAnswer(now, verdicts) {
  const found = verdicts.find(meets), box = $("answer");
  box.classList.toggle("refused", !found);
  const allowed = amount(now.most, now.measure);
  const place = (one) => `${record.bins[one.bin]}, ${record.areas[one.area].label}`;
  if (!(now.most >= 0)) {
    box.replaceChildren(make("p", {}, "Give the largest loss that you accept as a number from 0."));
    return null;
  }
  if (found) {
    const why = found.name === LOSSLESS ? "It is the stored array bit for bit, so nothing is lost."
      : `Upper end of its recorded loss: ${amount(found.high, now.measure)} (${place(found)}), within the ${allowed} allowed.`;
    box.replaceChildren(
      make("p", { class: "big" }, make("code", {}, found.name), ` at ${digits(rateOf(found, now))} ${rateName(now)}`),
      make("p", {}, `${$("amount-name").textContent}: ${priceOf(found, now)}. ${why}`));
    return found;
  }
  const nearest = verdicts.reduce((best, one) => (best && best.ratio <= one.ratio ? best : one), null);
  const known = nearest && nearest.high !== null && Number.isFinite(nearest.ratio);
  box.replaceChildren(
    make("p", { class: "big" }, "No level is recorded to meet this"),
    make("p", {}, !nearest ? "No level is left to choose from."
      : known ? `The nearest is ${nearest.name}: the upper end of its recorded loss is ${amount(nearest.high, now.measure)} (${place(nearest)}), and ${allowed} is allowed.`
        : `Too few objects were measured in ${place(nearest)} to promise anything at a level that loses something.`),
    make("p", {}, "Accept a larger loss, ask for one set and band, or allow exact."));
  return null;
}
function fillVerdicts(now, verdicts, chosen) {
  const head = ["level", "meets the need", rateName(now), rowsOf(now) ? "my rows" : "my area", "upper end of the loss"];
  const rows = verdicts.map((one) => {
    const exact = one.name === LOSSLESS, open = one.high === null && !exact;
    const [kind, text] = meets(one) ? ["yes", "✓ yes"] : open ? ["unknown", "? too few objects"] : ["no", "✗ no"];
    return make("tr", chosen && one.level === chosen.level ? { class: "chosen" } : {},
      make("th", { scope: "row" }, make("code", {}, one.name)), make("td", { class: kind }, text),
      ...[Number.isFinite(one.bpp) ? digits(rateOf(one, now)) : "–", priceOf(one, now), exact ? "0" : amount(one.high, now.measure)].map((value) => make("td", { class: "n" }, value)));
  });
  $("verdicts").replaceChildren(
    make("caption", {}, "Every level against this need"),
    make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col", ...(i > 1 ? { class: "n" } : {}) }, text)))),
    make("tbody", {}, ...rows));
}

// The code to paste: names are quoted for the language that reads them.
function address() {
  if (record.url) return record.url;
  const folder = location.href.replace(/[?#].*$/, "").replace(/\/[^/]*$/, "");
  return location.protocol === "file:" ? decodeURIComponent(folder.replace(/^file:\/\//, "")) : folder;
}
const quotePython = (text) => JSON.stringify(text);
const quoteShell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
function fillCode(now, chosen) {
  $("paste").hidden = !chosen;
  if (!chosen) return;
  const place = $("area").value === "all" ? null : record.areas[now.areas[0]];
  const area = record.areas[now.areas[0]], need = now.need.before + now.shown + now.need.after;
  const where = (place ? `, set=${quotePython(place.set)}${place.band ? `, band=${quotePython(place.band)}` : ""}` : "")
    + (now.lossy ? `, levels=${JSON.stringify(record.levels.filter((name) => name !== LOSSLESS))}` : "");
  const open = [`release = skyfold.open_release(${quotePython(address())})`,
    `level = release.choose(${quotePython(now.one.name)}, ${quotePython(need)}${where})  # ${chosen.name}`];
  const [ra, dec] = area.position || [0, 0];
  const python = area.position
    ? ["import skyfold", "from astropy import units as u", "from astropy.coordinates import SkyCoord", "", ...open,
      `position = SkyCoord(${ra}, ${dec}, unit="deg")  # your own`,
      `cutout = release.images.cutout(position, 30 * u.arcsec, band=${quotePython(area.band)}, level=level)`]
    : ["import skyfold", "", ...open, ...(area.image ? [`window = release.images.read(${quotePython(area.image)}, level)`]
      : area.rows ? [`${area.kind === "catalogs" ? "table" : "pdf"} = release.${area.kind}[${quotePython(area.set)}].read(level=level)`] : [])];
  const url = quoteShell(address());
  const shell = [`skyfold choose ${url} ${quoteShell(now.one.name)} ${quoteShell(need)}`, area.position
    ? `skyfold cutout ${url} --ra ${ra} --dec ${dec} --size 30 --band ${quoteShell(area.band)} --level ${chosen.name} -o cutout.fits`
    : area.image ? `skyfold decode ${url} ${quoteShell(area.image)} --level ${chosen.name} -o image.fits`
      : area.rows ? `skyfold ${area.kind === "catalogs" ? "catalog" : "densities"} ${url} ${quoteShell(area.set)} --level ${chosen.name} -o ${area.kind === "catalogs" ? "table.parquet" : "pdf.npz"}` : ""];
  $("python").textContent = python.join("\n");
  $("shell").textContent = shell.filter(Boolean).join("\n");
}

// Controls.
function span(measure, number) {
  const mine = record.rows.filter((row) => row[CASE] === number[0] && row[MEASURE] === number[1] && endOf(row) > 0);
  const highs = mine.map(endOf).sort((a, b) => a - b);
  if (!highs.length) return { low: 1e-3, high: 1, start: 0.1 };
  const start = measure.unit === "sigma" ? 0.5 : isRate(measure) ? 0.05 : Number(highs[highs.length >> 1].toPrecision(1));
  return { low: Math.min(highs[0] / 2, start), high: Math.max(highs[highs.length - 1] * 2, start), start };
}
let range = null;
const scaleOf = () => (isRate(state().measure) ? 100 : 1);
function slideTo(value) {
  const at = Math.log(value / range.low) / Math.log(range.high / range.low);
  $("slide").value = value > 0 ? 100 * Math.min(Math.max(at, 0), 1) : 0;
  $("slide").setAttribute("aria-valuetext", amount(value, state().measure));
}
function fillMeasures(wanted) {
  const one = record.cases[$("case").value];
  const usable = one.measures.map((measure, i) => [i, measure.name]).filter(([i]) => one.measures[i].needs.length);
  options($("measure"), usable, wanted ?? one.default);
  const areas = areasOf($("case").value, "all");
  options($("area"), [...(areas.length > 1 ? [["all", "all of them"]] : []), ...areas.map((i) => [i, record.areas[i].label])], areas.length > 1 ? "all" : areas[0]);
}
function fillBins(wanted) {
  const measure = record.cases[$("case").value].measures[$("measure").value];
  const all = measure.needs.findIndex((need) => need.after.endsWith(" >= 5"));
  options($("bin"), measure.needs.map((need, i) => [i, need.label]), wanted ?? Math.max(all, 0));
  range = span(measure, [Number($("case").value), Number($("measure").value)]);
  $("most").value = digits(range.start * scaleOf());
  $("unit").textContent = isRate(measure) ? "[%]" : measure.unit ? `[${measure.unit}]` : "";
  slideTo(range.start);
}
function update() {
  const now = state(), isAsked = now.most >= 0, verdicts = isAsked ? judge(now) : [];
  $("verdicts").closest(".card").hidden = !isAsked;
  const withSky = now.areas.every((area) => record.areas[area].pixel_deg2);
  const unit = $("amount-unit").value;
  options($("amount-unit"), rowsOf(now) ? [["Mrow", "million rows"]] : [["Mpixel", "Mpixel"], ...(withSky ? [["deg2", "square degrees"]] : [])], unit || "Mpixel");
  $("amount-name").textContent = rowsOf(now) ? "My rows" : "My area";
  const chosen = fillAnswer(now, verdicts);
  fillVerdicts(now, verdicts, chosen);
  fillCode(now, chosen);
  drawFigures(now);
  clearTimeout(timer);
  timer = setTimeout(keepAddress, 300); // browsers limit how often an address may change
}
let timer = 0;
function keepAddress() {
  const place = ["case", "measure", "bin", "area", "most"].map((id) => `${id}=${encodeURIComponent($(id).value)}`).join("&");
  try { history.replaceState(null, "", `#${place}`); } catch { /* some browsers refuse it for local files */ }
}
function start() {
  options($("case"), record.cases.map((one, i) => [i, one.name]), Math.max(record.cases.findIndex((one) => one.name === "photometry"), 0));
  const asked = location.hash.includes("case=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : {};
  if (asked.case in record.cases) $("case").value = asked.case;
  fillMeasures(asked.measure);
  fillBins(asked.bin);
  if (asked.area !== undefined) $("area").value = asked.area;
  if ($("area").selectedIndex < 0) $("area").selectedIndex = 0;
  if (Number(asked.most) >= 0) $("most").value = asked.most;
  slideTo(Number($("most").value) / scaleOf());
  $("case").addEventListener("change", () => { fillMeasures(); fillBins(); update(); });
  $("measure").addEventListener("change", () => { fillBins(); update(); });
  for (const id of ["bin", "area", "lossy", "amount-unit"]) $(id).addEventListener("change", update);
  $("amount").addEventListener("input", update);
  $("most").addEventListener("input", () => { slideTo(Number($("most").value) / scaleOf()); update(); });
  $("slide").addEventListener("input", () => {
    const value = range.low * (range.high / range.low) ** ($("slide").value / 100);
    $("most").value = digits(value * scaleOf(), 2);
    $("slide").setAttribute("aria-valuetext", amount(value, state().measure));
    update();
  });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("button[data-copy]")) button.addEventListener("click", () => copy(button));
  const areas = record.areas.map((area, i) => [i, area.label]);
  options($("shown"), areas.length > 1 ? [[WORST, "the worst of all"], ...areas] : areas, areas.length > 1 ? WORST : 0);
  $("shown").addEventListener("change", update);
  update();
}
async function copy(button) {
  const code = $(button.dataset.copy), label = button.textContent;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = label; }, 2000);
}
