// Figures as plots: where JavaScript runs they stand in the place of the pictures, which remain for paper.
(() => {
  const { make } = Report;
  const HEIGHT_OF_SIGHT = "600px";
  // Colours are those of the page: an SVG takes them from the style sheet, in both themes.
  const [ink, soft, line] = ["var(--ink)", "var(--soft)", "var(--line)"];
  const CONFIG = {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 220 },
    legend: { labelColor: soft, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    axisXBand: { grid: false },
    text: { fontSize: 13 },
  };

  let library = null;

  /** The plotting library, unpacked and run when it is first needed. */
  function vega() {
    library ??= Report.unpack("plot-library").then((code) => {
      document.head.append(make("script", {}, code));
      return Vega;
    });
    return library;
  }

  function specification(plot, { columns, spec }) {
    const names = Object.keys(columns);
    const values = columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
    const chosen = plot.sliders.map((slider) => ({ name: slider.name, value: slider.values[slider.start] }));
    return {
      data: { values },
      params: [{ name: "hidden", value: [] }, ...chosen],
      transform: [{ filter: "indexof(hidden, datum.label) < 0" }],
      width: 100,
      autosize: { type: "fit", contains: "padding" },
      ...spec,
    };
  }

  // ------------------------------------------------------------------------------------------------- what one points at
  const tip = make("div", { id: "tip", hidden: true });

  /** Show the values of a mark beside the pointer; nothing where there is none. */
  function show(event, values) {
    tip.hidden = !values;
    if (!values) return;
    tip.replaceChildren(Report.pairs(Object.entries(values).filter(([, value]) => value !== "null" && value !== "NaN")));
    const [x, y] = [event.clientX + 14, event.clientY + 14];
    tip.style.left = `${Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : y}px`;
  }

  // ------------------------------------------------------------------------------------------------------------ controls
  function legend(plot, signal) {
    const hidden = new Set();
    const entry = ([label, colour]) => {
      const toggle = (event) => {
        hidden[hidden.has(label) ? "delete" : "add"](label);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(label)));
        signal("hidden", [...hidden]);
      };
      return make("button", { type: "button", "aria-pressed": "true", onclick: toggle }, Report.swatch(colour), label);
    };
    return plot.legend.length > 1 ? make("div", { class: "legend", role: "group", "aria-label": "Show or hide" }, plot.legend.map(entry)) : null;
  }

  function slider({ name, title, values, start }, signal) {
    const output = make("output", {}, String(values[start]));
    const input = make("input", { type: "range", min: 0, max: values.length - 1, value: start, "aria-valuetext": values[start] });
    input.addEventListener("input", () => {
      const value = values[input.value];
      output.textContent = value;
      input.setAttribute("aria-valuetext", value);
      signal(name, value);
    });
    return make("label", {}, make("span", {}, `${title} `, output), input);
  }

  /** What a picture says below itself, such as what its intervals are, stays within reach; on paper it is what is seen. */
  function fold(picture) {
    const folded = make("details", { class: "printed picture" }, make("summary", {}, "As a picture, with its notes"));
    picture.replaceWith(folded);
    folded.append(picture);
  }

  /** The rows behind a panel, for who has no pointer; made when they are first asked for. */
  function values({ title, columns }) {
    const names = Object.keys(columns);
    const text = (value) => (value === null ? "" : Report.number(value));
    const unfold = ({ currentTarget: folded }) => {
      if (folded.open && folded.childElementCount === 1) folded.append(Report.table(`Values: ${title}`, names, columns[names[0]].map((_, i) => names.map((name) => text(columns[name][i])))));
    };
    return make("details", { ontoggle: unfold }, make("summary", { "aria-label": `Values: ${title}` }, "Values"));
  }

  // -------------------------------------------------------------------------------------------------------------- plots
  async function draw(figure, plot) {
    const { View, parse, compile, expressionInterpreter } = await vega();
    const views = [];
    const signal = (name, value) => views.forEach((view) => view.signal(name, value).runAsync());
    const boxes = plot.panels.map(({ spec }) => make("div", { class: "plot", style: { "min-height": `${spec.height}px` } }));
    const controls = plot.sliders.length ? make("div", { class: "controls" }, plot.sliders.map((one) => slider(one, signal))) : null;
    const panels = plot.panels.map((panel, i) => make("div", {}, make("p", { class: "panel-title" }, panel.title), boxes[i], values(panel)));
    figure.prepend(make("div", { class: "plots" }, legend(plot, signal), controls, make("div", { class: "panels", style: { "--columns": plot.columns } }, panels)));
    const picture = figure.querySelector("img");
    if (picture) fold(picture);
    plot.panels.forEach((panel, i) => {
      const { spec } = compile(specification(plot, panel), { config: CONFIG });
      // Without eval, which the page's security policy forbids.
      const view = new View(parse({ ...spec, description: panel.title }, null, { ast: true }), { expr: expressionInterpreter, renderer: "svg", container: boxes[i] });
      view.tooltip((_, event, item, value) => show(event, value));
      view.addEventListener("pointerdown", (event, item) => show(event, item?.tooltip));
      views.push(view);
      new ResizeObserver(() => { if (boxes[i].clientWidth) view.width(boxes[i].clientWidth).runAsync(); }).observe(boxes[i]);
    });
  }

  Report.plots = (plots) => {
    document.body.append(tip);
    addEventListener("scroll", () => show(null, null), { passive: true });
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        draw(target, plots[target.id.replace("figure-", "")]);
      }
    }, { rootMargin: HEIGHT_OF_SIGHT });
    for (const name of Object.keys(plots)) seen.observe(document.getElementById(`figure-${name}`));
  };
})();
