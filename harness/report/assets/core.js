"use strict";
// Everything is inside one function, so that nothing of the page is global.
const Report = {};

(() => {
  /** An element with attributes and children. Text is always a text node: what a model wrote is never read as HTML. */
  Report.make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    Report.set(element, attributes);
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  };

  Report.set = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
  };

  Report.svg = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Report.set(element, attributes);
    element.append(...children);
    return element;
  };

  /** A text that is packed in the page: deflated, in base64. */
  Report.unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    // Not through a Blob: reading one counts as a fetch, which the page's own security policy forbids.
    const source = new ReadableStream({ start: (control) => { control.enqueue(bytes); control.close(); } });
    const reader = source.pipeThrough(new DecompressionStream("deflate")).pipeThrough(new TextDecoderStream()).getReader();
    const parts = [];
    for (let part = await reader.read(); !part.done; part = await reader.read()) parts.push(part.value);
    return parts.join("");
  };

  // ------------------------------------------------------------------------------------------------------ words
  const NOTHING = "—";

  Report.level = (value, metric) => (metric === "accuracy" ? (100 * value).toFixed(1) : value.toFixed(3));
  Report.signed = (value, metric) => {
    const text = Report.level(Math.abs(value), metric);
    return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
  };
  Report.percent = (value) => (value === null || value === undefined ? NOTHING : (100 * value).toFixed(1));
  Report.p = (value) => (value < 0.001 ? "<0.001" : value.toFixed(3));
  Report.interval = (found, metric, show) => `[${show(found.low, metric)}, ${show(found.high, metric)}]`;
  Report.number = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)).toString() : String(value));

  Report.swatch = (colour) => Report.make("span", { class: "swatch", style: { "--method": colour } });
  Report.runLink = (run) => Report.make("a", { href: `#run/${run.id}` }, run.id);
  Report.verdict = (word) => Report.make("span", { class: `verdict ${word.split(" ")[0]}` }, word);

  Report.command = (words) => {
    const button = Report.make("button", { type: "button", class: "copy", "aria-label": "Copy the command" }, "copy");
    return Report.make("div", { class: "command" }, Report.make("code", { tabindex: "0" }, words), button);
  };

  /** Name and value pairs; values are text or elements, what is missing is left out. */
  Report.pairs = (pairs) => {
    const list = Report.make("dl", { class: "pairs" });
    for (const [name, value] of pairs) {
      if (value === null || value === undefined || value === "") continue;
      list.append(Report.make("dt", {}, name), Report.make("dd", {}, value));
    }
    return list;
  };

  /** A table that DataTables sorts and filters. Cells are text, elements, or {order, text}. */
  Report.table = (name, header, rows, options = {}) => {
    const cell = (value) => {
      const plain = value === null || typeof value !== "object" || value instanceof Node;
      return Report.make("td", plain ? {} : { "data-order": value.order }, (plain ? value : value.text) ?? NOTHING);
    };
    const head = Report.make("thead", {}, Report.make("tr", {}, header.map((text) => Report.make("th", { scope: "col" }, text))));
    const body = Report.make("tbody", {}, rows.map((row) => Report.make("tr", {}, row.map(cell))));
    const table = Report.make("table", { "aria-label": name }, head, body);
    const around = Report.make("div", { class: "wide", role: "region", "aria-label": name, tabindex: "0" }, table);
    if (rows.length > 3) Report.sortable(table, options);
    return around;
  };

  Report.sortable = (table, options = {}) => {
    const long = table.rows.length > 61 || (options.data ?? []).length > 60;
    const made = new DataTable(table, {
      autoWidth: false,
      order: [],
      paging: long,
      pageLength: 50,
      lengthChange: false,
      layout: { topStart: "search", topEnd: null, bottomStart: long ? "info" : null, bottomEnd: long ? "paging" : null },
      language: { search: "Filter", emptyTable: "Nothing", zeroRecords: "Nothing matches" },
      ...options,
    });
    // Its own name for the landmark is the same in every table.
    const region = table.closest(".wide");
    region.querySelector(".dt-paging nav")?.setAttribute("aria-label", `Pages of: ${region.getAttribute("aria-label")}`);
    return made;
  };
})();
