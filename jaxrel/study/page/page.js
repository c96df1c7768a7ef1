// The rows of the tables and the charts of a page, from the JSON that is in it.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const tables = read("results").parts.flatMap((part) => part.tables);
const PAGE = 100; // rows that are put into the document at once

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const FORMATS = {
  share: (value) => `${(100 * value).toFixed(1)}%`,
  number: (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "infinite"),
  count: (value) => (value < 1e5 ? String(value) : compact.format(value)),
  seconds: (value) => value.toFixed(1),
};
const MARKS = { best: "best", tied: "ties with the best" };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function cellOf(column, row, first) {
  const value = row[column.field];
  const cell = element(first ? "th" : "td", column.kind);
  if (first) cell.scope = "row";
  if (value === undefined || value === null) return cell;
  const format = FORMATS[column.kind];
  if (!format) {
    cell.textContent = value;
    return cell;
  }
  const shown = (number) => format(Number(number));
  cell.textContent = shown(value);
  const [lower, upper] = [row[`${column.field}_lower`], row[`${column.field}_upper`]];
  if (lower !== undefined) cell.append(element("span", "interval", ` (${shown(lower)} to ${shown(upper)})`));
  const mark = row[`${column.field}_mark`];
  if (mark) cell.append(element("span", `mark ${mark}`, ` ${MARKS[mark]}`));
  return cell;
}

function order(column, ascending) {
  const sign = ascending ? 1 : -1;
  const textual = !(column.kind in FORMATS);
  return (one, other) => {
    const [a, b] = [one[column.field], other[column.field]];
    if (a === undefined || a === null) return b === undefined || b === null ? 0 : 1; // last in either order
    if (b === undefined || b === null) return -1;
    return sign * (textual ? String(a).localeCompare(String(b), "en", { numeric: true }) : Number(a) - Number(b));
  };
}

function grid(section, { columns, rows }) {
  const body = section.querySelector("tbody");
  const more = section.querySelector(".more");
  const search = section.querySelector("input[type=search]");
  const best = section.querySelector(".best");
  const choices = [...section.querySelectorAll("select")];
  const textual = columns.filter((column) => !(column.kind in FORMATS));
  const haystacks = new Map(
    rows.map((row) => [row, textual.map((column) => row[column.field] ?? "").join("\n").toLowerCase()]),
  );
  let shown = PAGE;
  let sorted = rows;

  function matches(row) {
    const words = search.value.toLowerCase().split(/\s+/);
    return (
      words.every((word) => haystacks.get(row).includes(word)) &&
      choices.every((one) => !one.selectedIndex || String(row[one.dataset.field]) === one.value) &&
      (!best?.checked || columns.some((column) => row[`${column.field}_mark`]))
    );
  }

  // Few rows are in the document at any time, so that thousands are sorted and filtered without a delay.
  function render(most = shown) {
    const kept = sorted.filter(matches);
    body.replaceChildren(
      ...kept.slice(0, most).map((row) => {
        const line = element("tr");
        line.append(...columns.map((column, place) => cellOf(column, row, place === 0)));
        return line;
      }),
    );
    const drawn = Math.min(most, kept.length);
    const of = kept.length < rows.length ? `, of ${rows.length} in all` : "";
    section.querySelector(".shown").textContent = `${drawn} of ${kept.length} rows are shown${of}.`;
    more.hidden = drawn === kept.length;
  }

  function sortBy(column, heading) {
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : column.better !== "higher";
    for (const other of section.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sorted = [...rows].sort(order(column, ascending));
    shown = PAGE;
    render();
  }

  section.querySelectorAll("thead th").forEach((heading, place) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(columns[place], heading));
  });
  for (const control of [search, ...choices, ...(best ? [best] : [])]) {
    control.addEventListener("input", () => {
      shown = PAGE;
      render();
    });
  }
  more.addEventListener("click", () => {
    shown += PAGE;
    render();
  });
  addEventListener("beforeprint", () => render(Infinity)); // paper has all rows that the filters leave
  addEventListener("afterprint", () => render());
  render();
}

async function draw(section, rows, specs) {
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    ast: true, // expressions are interpreted, as the policy of the page allows no other code
    actions: false,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
    config: { background: "transparent", view: { stroke: "transparent" }, axis: { labelLimit: 320 } },
  };
  for (const figure of section.querySelectorAll("figure")) {
    const spec = specs.shift();
    const description = figure.querySelector(".alternative").textContent;
    const data = spec.data ?? { values: rows };
    await window.vegaEmbed(figure.querySelector(".chart"), { ...spec, data, description }, options);
  }
}

function theme() {
  const button = document.getElementById("theme");
  const choose = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", dark);
  };
  choose(matchMedia("(prefers-color-scheme: dark)").matches);
  button.addEventListener("click", () => choose(button.getAttribute("aria-pressed") !== "true"));
}

theme();
const sections = [...document.querySelectorAll("[data-grid]")];
sections.forEach((section, place) => grid(section, tables[place]));
const specs = read("charts");
if (window.vegaEmbed) for (const [place, section] of sections.entries()) await draw(section, tables[place].rows, specs);
document.documentElement.dataset.ready = "";
