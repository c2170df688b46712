// Two runs, or two methods with all their seeds, side by side: what is known of them, scores, losses and settings.
(() => {
  const { make, level, signed } = Report;
  const NOTHING = "—";
  const MEASURES = [["accuracy", "accuracy, %"], ["gold_nll", "gold NLL, nats"]];
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  /** What can stand on a side, by key: each run under its id, and all seeds of a method under what their ids begin with. */
  function sidesOf(data) {
    const sides = new Map();
    const groups = Map.groupBy(data.runs, (run) => run.id.split("/").slice(0, 3).join("/"));
    for (const [key, runs] of groups) {
      const place = `${runs[0].domain}, ${runs[0].model}`;
      if (runs.length > 1) sides.set(key, { key, runs, place, label: `${runs[0].method}, ${runs.length} seeds`, several: true });
      for (const run of runs) sides.set(run.id, { key: run.id, runs: [run], place, label: run.seed === null ? run.method : `${run.method}, seed ${run.seed}`, several: false });
    }
    return sides;
  }

  /** What to hold a side beside where nothing is chosen: as alike as can be, and LoRA, or BeamLoRA beside LoRA. */
  function partner(side, sides) {
    const [run] = side.runs;
    const near = (other) => {
      const [one] = other.runs;
      const alike = [one.domain === run.domain, one.model_key === run.model_key, other.several === side.several, one.method_key !== run.method_key, one.seed === run.seed, one.method_key === "lora", one.method_key === "beamlora"];
      return alike.reduce((sum, same) => 2 * sum + Number(same), 0);
    };
    return [...sides.values()].filter((other) => other !== side).reduce((best, one) => (best === null || near(one) > near(best) ? one : best), null);
  }

  /** A row for each name, with the text on either side, and what else belongs to it; rows whose sides differ are marked. */
  function table(name, first, [a, b], rows, last = null) {
    const place = (side) => (a.place === b.place ? null : make("span", { class: "meta" }, ` ${side.place}`));
    const head = [make("th", { scope: "col" }, first), ...[a, b].map((side) => make("th", { scope: "col" }, side.label, place(side))), last && make("th", { scope: "col" }, last)];
    const body = rows.map(([title, left, right, more]) => {
      const differs = left !== right;
      const mark = differs ? make("span", { class: "mark" }, " ≠") : null;
      return make("tr", { class: differs ? "differs" : null }, make("th", { scope: "row" }, title, mark), make("td", {}, left), make("td", {}, right), last && make("td", {}, more ?? NOTHING));
    });
    const made = make("table", { class: "pair", "aria-label": name }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body));
    return make("div", { class: "wide", role: "region", "aria-label": name, tabindex: "0" }, made);
  }

  /** Texts by name of a side's runs: one where all say the same, else all that they say. */
  function said(side, read) {
    const texts = new Map();
    for (const run of side.runs) for (const [name, text] of read(run)) if (text !== null && text !== undefined && text !== "") texts.set(name, (texts.get(name) ?? new Set()).add(String(text)));
    return texts;
  }

  /** Both sides' texts by name, as rows. */
  function rowsOf(pair, read) {
    const [left, right] = pair.map((side) => said(side, read));
    const text = (texts, name) => [...(texts.get(name) ?? [NOTHING])].join(", ");
    return [...new Set([...left.keys(), ...right.keys()])].map((name) => [name, text(left, name), text(right, name)]);
  }

  function scores(pair) {
    const tasks = [...new Set(pair.flatMap((side) => side.runs.flatMap((run) => Object.keys(run.tasks))))];
    const rows = tasks.flatMap((task) => MEASURES.flatMap(([metric, unit]) => {
      const values = pair.map((side) => side.runs.map((run) => run.tasks[task]?.[metric]).filter((value) => value !== undefined && value !== null));
      if (!values.some((own) => own.length)) return [];
      const shown = values.map((own) => {
        if (!own.length) return NOTHING;
        return own.length === 1 ? level(own[0], metric) : `${level(mean(own), metric)} (${own.map((value) => level(value, metric)).join(", ")})`;
      });
      return [[`${task}, ${unit}`, ...shown, values.every((own) => own.length) ? signed(mean(values[0]) - mean(values[1]), metric) : NOTHING]];
    }));
    const asked = rowsOf(pair, (run) => Object.entries(run.tasks).flatMap(([task, found]) => [[`${task}, examples`, found.n], [`${task}, grader`, found.grader]]));
    const note = "Of several seeds the mean, and each seed's in brackets. The difference is described here; only the tables decide.";
    return [make("h2", {}, "Scores"), make("p", { class: "meta" }, note), table("Scores side by side", "Test set", pair, [...rows, ...asked.filter(([, left, right]) => left !== right && left !== NOTHING && right !== NOTHING)], "Left − right")];
  }

  function losses(pair) {
    const lines = pair.flatMap((side, i) => side.runs.map((run) => ({ name: `${run.method}, seed ${run.seed}`, colour: run.colour, points: run.loss ?? [], dashed: i === 1 })));
    const drawn = lines.filter((line) => line.points.some(([, loss]) => loss !== null));
    if (!drawn.length) return [];
    const caption = ["Training loss over optimizer steps. ", Report.swatch(pair[0].runs[0].colour), `${pair[0].label}; dashed: `, Report.swatch(pair[1].runs[0].colour), `${pair[1].label}.`];
    const last = rowsOf(pair, (run) => [["Last training loss", run.loss?.findLast(([, loss]) => loss !== null)?.[1].toFixed(4)]]);
    return [make("h2", {}, "Loss"), Report.lossChart(drawn, [], caption), table("Losses side by side", "Loss", pair, last)];
  }

  /** The values inside a mapping by the path of their keys. */
  const flat = (value, path = "") => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return Object.entries(value).flatMap(([key, one]) => flat(one, path ? `${path}.${key}` : key));
    return [[path, typeof value === "string" ? value : JSON.stringify(value)]];
  };

  function settings(pair) {
    const rows = rowsOf(pair, (run) => (run.train?.spec ? flat(run.train.spec) : []));
    if (!rows.length) return [];
    const [same, other] = [rows.filter(([, left, right]) => left === right), rows.filter(([, left, right]) => left !== right)];
    return [
      make("h2", {}, "Settings"),
      other.length ? table("Settings that differ", "Setting", pair, other) : make("p", {}, "No setting differs."),
      same.length ? make("details", {}, make("summary", {}, `${same.length} settings that are the same`), table("Settings that are the same", "Setting", pair, same)) : null,
    ];
  }

  /** Where both answered the same test sets: what only one of them solves. */
  function flips([a, b], data) {
    const [one, other] = [a.runs[0], b.runs[0]];
    if (a.place !== b.place || one.method_key === other.method_key) return [];
    const graded = (run, task) => data.answers.runs[run.id]?.[task]?.bits;
    const tasks = Object.keys(one.tasks).filter((task) => graded(one, task) && graded(other, task));
    const links = tasks.flatMap((task, i) => [i ? ", " : "", make("a", { href: ["#flips", one.domain, one.model_key, task, one.method_key, other.method_key].join("/") }, task)]);
    return links.length ? [make("p", {}, "Examples that only one of them solves: ", links)] : [];
  }

  Report.pairView = (address, data) => {
    const sides = sidesOf(data);
    const found = (key) => sides.get(key) ?? [...sides.values()].find((side) => side.key.startsWith(`${key}/`));
    const [first, second] = address.split("~");
    const left = found(first);
    const right = left && (second === undefined ? partner(left, sides) : found(second));
    if (!right) return Report.title(left ? "Nothing to hold it beside" : "No such run", make("p", {}, address));
    const pair = [left, right];
    const view = Report.title("");
    const content = make("div");
    view.querySelector("h1").setAttribute("aria-live", "polite");
    const groups = Map.groupBy(sides.values(), (side) => side.place);
    const select = (i, label) => {
      const options = [...groups].map(([place, own]) => make("optgroup", { label: place }, own.map((side) => make("option", { value: side.key, selected: side === pair[i] }, side.label))));
      const element = make("select", { id: `pair-${i}`, onchange: () => { pair[i] = sides.get(element.value); draw(); history.replaceState(null, "", `#pair/${pair[0].key}~${pair[1].key}`); } }, options);
      return make("label", {}, label, element);
    };
    const draw = () => {
      const words = `${pair[0].label} beside ${pair[1].label}`;
      view.querySelector("h1").textContent = words;
      document.title = `${words} · ${data.experiment}`;
      const missing = pair.filter((side) => side.runs.some((run) => !run.train));
      const pages = pair.flatMap((side) => side.runs).flatMap((run, i) => [i ? ", " : "", Report.runLink(run)]);
      content.replaceChildren(...[
        missing.length ? make("p", { class: "note warn" }, `Not all run: ${missing.map((side) => side.label).join("; ")}.`) : null,
        make("p", { class: "meta" }, "≠ marks what differs. Pages of the runs: ", pages),
        ...scores(pair), ...flips(pair, data), ...losses(pair), ...settings(pair),
        make("h2", {}, "Training and machine"), table("Facts side by side", "Fact", pair, rowsOf(pair, (run) => [["Status", run.status], ...(run.train ? Report.facts(run) : [])])),
      ].filter((part) => part !== null));
    };
    view.append(make("div", { class: "controls" }, select(0, "Left"), select(1, "Right")), content);
    draw();
    return view;
  };
})();
