/* The gallery of a report: filters, order, pages, and the dialog that enlarges.
 *
 * Reads `texsynthReport`, which data.js assigns. Rows and exemplars are numbers there, and every column
 * is a list over them. Texts of a run go into the page as text only, never as markup.
 */
"use strict";

const CARDS_PER_PAGE = 48;
const TILE_CSS_PX = 96;
const ENLARGED_PX = 256; // Smaller pictures are shown so large, or as near as a whole multiple comes.
const CURVE_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const SVG = "http://www.w3.org/2000/svg";

const data = texsynthReport;
const { rows, exemplars, measures, flags } = data;
const rowsOfExemplar = exemplars.path.map(() => []);
rows.exemplar.forEach((exemplar, row) => rowsOfExemplar[exemplar].push(row));
const severalCrops = exemplars.crop.some((crop) => crop > 0);
const categories = [...new Set(exemplars.category)];

const controls = document.getElementById("controls");
const fields = controls.elements;
const count = document.getElementById("count");
const gallery = document.getElementById("gallery");
const pages = document.getElementById("pages");
const dialog = document.querySelector("dialog");

let cards = []; // Of every exemplar with a matching row, in order: {exemplar, matching}.
let page = 0;
let enlarged = { card: 0, row: 0 };

/* Texts */

function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const large = Math.abs(value) >= 100;
  if (Math.abs(value) >= 1e12) return value.toExponential(digits - 1);
  return value.toLocaleString("en", large ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits });
}

function counted(value, noun) {
  return `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
}

function exemplarName(exemplar) {
  const name = exemplars.exemplar_id[exemplar];
  return severalCrops ? `${name}, crop ${exemplars.crop[exemplar]}` : name;
}

function textureName(row) {
  const kind = rows.blend[row] === undefined ? "variation" : "blend";
  const partner = kind === "blend" ? ` with ${rows.blend[row]}` : "";
  return `${kind} ${rows.variation[row]}${partner}`;
}

function rowName(row) {
  const name = textureName(row);
  return `${name[0].toUpperCase()}${name.slice(1)} of ${exemplarName(rows.exemplar[row])}`;
}

function isMade(row) {
  return data.statuses[rows.status[row]] === "ok" || rows.tile[row] >= 0;
}

/* Filters and order */

const haystacks = [];

function haystack(row) {
  const exemplar = rows.exemplar[row];
  haystacks[row] ??= [
    rows.task[row], exemplars.exemplar_id[exemplar], exemplars.category[exemplar],
    exemplars.path[exemplar], rows.error[row], rows.blend[row], ...rows.reasons[row],
  ].join("\n").toLowerCase().replaceAll("\0", "␀"); // As the page shows the null byte.
  return haystacks[row];
}

function matchesFlag(row, wanted) {
  if (wanted === "flagged") return rows.flagged[row] === 1;
  if (wanted === "good") return isMade(row) && rows.flagged[row] === 0;
  const [value, name] = wanted.split(":");
  return rows.flags[name][row] === Number(value);
}

function matchRows() {
  const words = fields.text.value.toLowerCase().trim();
  const [category, status, flag] = [fields.category.value, fields.status.value, fields.flag.value];
  const wantedCategory = category === "" ? undefined : categories[Number(category)];
  const matches = (row) =>
    (wantedCategory === undefined || exemplars.category[rows.exemplar[row]] === wantedCategory) &&
    (status === "" || data.statuses[rows.status[row]] === status) &&
    (flag === "" || matchesFlag(row, flag)) &&
    (words === "" || haystack(row).includes(words));
  return rowsOfExemplar
    .map((members, exemplar) => ({ exemplar, matching: members.filter(matches) }))
    .filter((card) => card.matching.length);
}

/* How bad a card is: that of its worst matching row, or best; a texture without a number is worst. */
function badness(card, measure, worstFirst) {
  const values = rows.measures[measure.name];
  const sign = measure.lowIsWorst ? -1 : 1;
  const made = card.matching.filter(isMade);
  if (!made.length) return worstFirst ? -Infinity : Infinity;
  const each = made.map((row) => (values[row] === null ? Number.MAX_VALUE : sign * values[row]));
  return each.reduce(worstFirst ? (a, b) => Math.max(a, b) : (a, b) => Math.min(a, b));
}

function sortCards(found) {
  const measure = measures.find(({ name }) => name === fields.sort.value);
  const worstFirst = fields.order.value === "worst";
  if (!measure) return worstFirst ? found : found.reverse();
  for (const card of found) card.badness = badness(card, measure, worstFirst);
  const compare = (a, b) => (a.badness < b.badness ? -1 : a.badness > b.badness ? 1 : 0);
  return found.sort((a, b) => (worstFirst ? compare(b, a) : compare(a, b)) || a.exemplar - b.exemplar);
}

function refresh() {
  cards = sortCards(matchRows());
  const found = cards.reduce((sum, card) => sum + card.matching.length, 0);
  count.textContent = found
    ? `${counted(found, "row")} of ${counted(cards.length, "exemplar")}`
    : "Nothing matches these filters.";
  showPage(0);
}

/* Pages of cards */

function showPage(wanted) {
  const last = Math.max(0, Math.ceil(cards.length / CARDS_PER_PAGE) - 1);
  page = Math.min(Math.max(wanted, 0), last);
  const begin = page * CARDS_PER_PAGE;
  gallery.replaceChildren(...cards.slice(begin, begin + CARDS_PER_PAGE).map((card, i) => drawCard(card, begin + i)));
  pages.hidden = last === 0;
  pages.querySelector("span").textContent = `Page ${page + 1} of ${last + 1}`;
  pages.querySelector("[name=previous]").disabled = page === 0;
  pages.querySelector("[name=next]").disabled = page === last;
}

function drawCard({ exemplar, matching }, index) {
  const members = rowsOfExemplar[exemplar];
  const first = matching.find((row) => rows.tile[row] >= 0) ?? matching[0];
  const source = exemplars.tile[exemplar] < 0
    ? blankTile(`Exemplar not shown: ${exemplars.problem[exemplar]}`)
    : drawTile(exemplars.tile[exemplar], `Exemplar ${exemplarName(exemplar)}`);
  source.addEventListener("click", () => enlarge(index, first));
  const items = [element("li", {}, [source, "exemplar"])];
  for (const row of members) items.push(drawVariation(row, matching.includes(row), index));
  const category = exemplars.category[exemplar];
  return element("article", { className: "card" }, [
    element("h3", {}, [exemplarName(exemplar), " ", element("span", { className: "muted", textContent: category ?? "" })]),
    element("ul", { className: "tiles" }, items),
  ]);
}

function drawVariation(row, matches, index) {
  const measure = measures.find(({ name }) => name === fields.sort.value) ?? measures[0];
  const value = measure ? `${measure.label} ${number(rows.measures[measure.name][row])}` : "";
  const status = data.statuses[rows.status[row]];
  const tile = rows.tile[row] < 0
    ? blankTile(status === "ok" ? "No image is stored in this row." : `${status}: ${rows.error[row] ?? "no reason given"}`)
    : drawTile(rows.tile[row], `${rowName(row)}, ${value}`);
  tile.dataset.row = row;
  tile.addEventListener("click", () => enlarge(index, row));
  const said = isMade(row) && measure ? [number(rows.measures[measure.name][row])] : [];
  if (status !== "ok" && rows.tile[row] >= 0) said.push(` ${status}`);
  if (rows.reasons[row].length) said.push(drawReasons(row, (reason) => reason.split(":")[0]));
  return element("li", { className: matches ? "" : "other" }, [tile, ...said]);
}

function drawReasons(row, shorten = (reason) => reason) {
  const items = rows.reasons[row].map((reason) => element("li", { textContent: shorten(reason) }));
  return element("ul", { className: "reasons" }, items);
}

function drawTile(tile, label) {
  const made = element("button", { type: "button", className: "tile", title: label });
  made.setAttribute("aria-label", `${label}, enlarge`);
  paintTile(made, tile, TILE_CSS_PX);
  return made;
}

function blankTile(text) {
  return element("button", { type: "button", className: "tile blank", textContent: text });
}

function paintTile(target, tile, side) {
  const perSheet = data.tilesPerSide ** 2;
  const [row, column] = [Math.floor((tile % perSheet) / data.tilesPerSide), tile % data.tilesPerSide];
  target.style.width = target.style.height = `${side}px`;
  target.style.backgroundImage = `url("${data.pictures}/sheet-${Math.floor(tile / perSheet)}.jpg")`;
  target.style.backgroundSize = `${data.tilesPerSide * side}px`;
  target.style.backgroundPosition = `${-column * side}px ${-row * side}px`;
}

/* The dialog: an exemplar and all its variations */

function enlarge(cardIndex, row) {
  enlarged = { card: cardIndex, row };
  const { exemplar } = cards[cardIndex];
  const members = rowsOfExemplar[exemplar];
  dialog.querySelector("h2").textContent = exemplarName(exemplar);
  const side = Math.max(...members.map((member) => rows.side[member] ?? 0)) || data.tileSide;
  const shown = side * Math.max(1, Math.floor(ENLARGED_PX / side));
  const pictures = dialog.querySelector(".pictures");
  pictures.style.setProperty("--side", `${shown}px`);
  pictures.replaceChildren(
    drawSource(exemplar, shown), ...members.map((member) => drawEnlarged(member, shown, member === row)));
  dialog.querySelector(".legend").hidden = !dialog.querySelector("[name=spectra]").checked;
  dialog.querySelector(".details").replaceChildren(...drawDetails(members, row));
  dialog.querySelector("[name=previous]").disabled = cardIndex === 0;
  dialog.querySelector("[name=next]").disabled = cardIndex === cards.length - 1;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector("h2").focus({ preventScroll: true });
}

function drawPicture(full, tile, label, side) {
  if (full) return element("img", { src: `${data.pictures}/${full}`, alt: label, width: side, height: side });
  const made = element("div", { className: "preview" });
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", `${label}, thumbnail`);
  paintTile(made, tile, side);
  return made;
}

function drawSource(exemplar, side) {
  const [tile, full] = [exemplars.tile[exemplar], exemplars.full[exemplar]];
  const label = `Exemplar ${exemplarName(exemplar)}`;
  const picture = tile < 0
    ? element("div", { className: "blank", textContent: `Exemplar not shown: ${exemplars.problem[exemplar]}` })
    : drawPicture(full, tile, label, side);
  const caption = [element("strong", { textContent: "exemplar" }), ` ${exemplars.path[exemplar]}`];
  if (tile >= 0 && !full) caption.push(" (thumbnail)");
  return element("figure", {}, [picture, element("figcaption", {}, caption)]);
}

function drawEnlarged(row, side, chosen) {
  const status = data.statuses[rows.status[row]];
  const parts = [rows.tile[row] < 0
    ? element("div", { className: "blank", textContent: "No image is stored in this row." })
    : drawPicture(rows.full[row], rows.tile[row], rowName(row), side)];
  if (dialog.querySelector("[name=spectra]").checked && rows.tile[row] >= 0) parts.push(...drawSpectrum(row, side));
  const caption = [element("strong", { textContent: textureName(row) })];
  if (status !== "ok") caption.push(` ${status}`);
  if (rows.tile[row] >= 0 && !rows.full[row]) caption.push(" (thumbnail)");
  if (rows.error[row]) caption.push(element("div", { className: "error", textContent: rows.error[row] }));
  caption.push(drawReasons(row));
  parts.push(element("figcaption", {}, caption));
  return element("figure", { className: chosen ? "chosen" : "" }, parts);
}

function drawSpectrum(row, side) {
  if (!rows.spectrum[row]) return [element("p", { className: "muted", textContent: "No spectrum: the report has no pair at full size." })];
  const label = `Spectrum of ${textureName(row)} less that of its exemplar`;
  const image = element("img", { className: "spectrum", src: `${data.pictures}/${rows.spectrum[row]}`, alt: label, width: side, height: side });
  return [image];
}

function drawDetails(members, chosen) {
  const head = element("tr", {}, [element("td"), ...members.map((row) =>
    element("th", { scope: "col", textContent: `${row === chosen ? "▸ " : ""}${textureName(row)}` }))]);
  const line = (label, title, cells, className = "") =>
    element("tr", { className }, [element("th", { scope: "row", textContent: label, title }), ...cells]);
  const known = measures.filter(({ name }) => members.some((row) => rows.measures[name][row] !== null));
  const lines = known.map(({ name, label, description }) => line(
    label, description,
    members.map((row) => element("td", { textContent: number(rows.measures[name][row]) })),
    name === fields.sort.value ? "sorted" : ""));
  lines.push(line("stopped by", "", members.map((row) => element("td", { textContent: rows.stopReason[row] ?? "–" }))));
  lines.push(line("attempts", "", members.map((row) => element("td", { textContent: number(rows.attempts[row]) }))));
  for (const { name, words: [yes, no, unknown], goodNews, description } of flags) {
    const values = members.map((row) => rows.flags[name][row]);
    if (values.every((value) => value < 0)) continue;
    const verdict = (value) => (value < 0 || goodNews === null ? "" : Boolean(value) === goodNews ? "good" : "bad");
    lines.push(line(name.replaceAll("_", " "), description, values.map((value) =>
      element("td", { className: verdict(value), textContent: value < 0 ? unknown : value ? yes : no }))));
  }
  const table = element("table", { className: "numbers" }, [element("thead", {}, [head]), element("tbody", {}, lines)]);
  const curves = members.filter((row) => data.curves[row]);
  const parts = [element("div", { className: "scroll" }, [table])];
  if (curves.length) parts.push(drawCurves(curves));
  return parts;
}

/* Loss curves of siblings, logarithmic; a curve breaks where its level changes. */
function drawCurves(members) {
  const [width, height] = [480, 200];
  const points = members.flatMap((row) => data.curves[row].evaluations.map((x, k) => [x, data.curves[row].loss[k]]));
  const positive = points.filter(([, loss]) => loss > 0);
  if (!positive.length) return element("div");
  const [ends, losses] = [points.map(([x]) => x), positive.map(([, loss]) => Math.log10(loss))];
  const [right, low, high] = [Math.max(...ends, 1e-9), Math.min(...losses), Math.max(...losses)];
  const place = (x, loss) =>
    `${((x / right) * width).toFixed(1)},${(height - ((Math.log10(loss) - low) / (high - low || 1)) * height).toFixed(1)}`;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `-4 -16 ${width + 8} ${height + 36}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Loss curves, ${number(10 ** high)} to ${number(10 ** low)}`);
  const draw = (name, attributes, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    svg.append(made);
  };
  draw("path", { d: `M0,0V${height}H${width}`, fill: "none", stroke: "currentColor", "stroke-opacity": 0.4 });
  draw("text", { x: 0, y: -5 }, `objective ${number(10 ** high)}`);
  draw("text", { x: 4, y: height - 4 }, number(10 ** low));
  draw("text", { x: width, y: height + 14, "text-anchor": "end" }, `${number(right)} evaluations`);
  members.forEach((row, member) => {
    const { evaluations, loss, side } = data.curves[row];
    const path = evaluations.map((x, k) => (loss[k] > 0 ? `${k && side[k] === side[k - 1] && loss[k - 1] > 0 ? "L" : "M"}${place(x, loss[k])}` : ""));
    draw("path", { d: path.join(""), fill: "none", stroke: CURVE_COLOURS[member % CURVE_COLOURS.length], "stroke-width": 1.8 });
  });
  const legend = element("ul", {}, members.map((row, member) => {
    const dot = element("span", { textContent: "● " });
    dot.style.color = CURVE_COLOURS[member % CURVE_COLOURS.length];
    return element("li", {}, [dot, textureName(row)]);
  }));
  return element("div", { className: "curve" }, [svg, legend]);
}

/* Cards before or after the one that is enlarged, on whichever page they are. */
function step(by) {
  const index = enlarged.card + by;
  if (index < 0 || index >= cards.length) return;
  const { matching } = cards[index];
  enlarge(index, matching.find((row) => rows.tile[row] >= 0) ?? matching[0]);
}

function closeDialog() {
  const { card, row } = enlarged;
  dialog.close();
  if (Math.floor(card / CARDS_PER_PAGE) !== page) showPage(Math.floor(card / CARDS_PER_PAGE));
  gallery.querySelector(`[data-row="${row}"]`)?.focus();
}

/* Events */

function fillControls() {
  const option = (value, textContent) => element("option", { value, textContent });
  fields.category.append(...categories.map((name, index) => option(index, name ?? "no category")));
  for (const { name, words: [yes, no], goodNews } of flags) {
    const choices = [option(`1:${name}`, yes), option(`0:${name}`, no)];
    fields.flag.append(...(goodNews ? choices.reverse() : choices)); // What is bad comes first.
  }
  fields.sort.append(...measures.map(({ name, label }) => option(name, label)), option("", "category and name"));
  const preferred = [...fields.sort.options].find(({ value }) => value === "delivered_loss");
  if (preferred) preferred.defaultSelected = preferred.selected = true;
}

function filterAndShow(values) {
  controls.reset();
  for (const [name, value] of Object.entries(values)) fields[name].value = value;
  refresh();
  const heading = document.getElementById("textures");
  heading.focus({ preventScroll: true });
  heading.scrollIntoView();
}

let pending = 0;
fields.text.addEventListener("input", () => {
  clearTimeout(pending);
  pending = setTimeout(refresh, 80); // A fast typist waits once.
});
controls.addEventListener("change", ({ target }) => {
  // Leaving the text field must not replace the tile that is being clicked.
  if (target !== fields.text) refresh();
});
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(refresh));
pages.addEventListener("click", ({ target }) => {
  if (target.name !== "previous" && target.name !== "next") return;
  showPage(page + (target.name === "next" ? 1 : -1));
  count.textContent = pages.querySelector("span").textContent;
  const heading = document.getElementById("textures");
  heading.focus({ preventScroll: true });
  heading.scrollIntoView();
});
document.addEventListener("click", ({ target }) => {
  const { category, none, status, text } = target.dataset ?? {};
  const wanted = none === undefined ? category : null;
  if (category !== undefined) filterAndShow({ category: categories.indexOf(wanted) });
  if (status !== undefined) filterAndShow({ status, text });
});
dialog.addEventListener("click", ({ target }) => {
  if (target === dialog || target.name === "close") closeDialog();
  if (target.name === "previous") step(-1);
  if (target.name === "next") step(1);
  if (target.name === "spectra") {
    enlarge(enlarged.card, enlarged.row);
    target.focus();
  }
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") step(1);
  if (event.key === "ArrowLeft") step(-1);
});
dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  closeDialog();
});

fillControls();
refresh();
