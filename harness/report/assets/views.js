// One number with the runs behind it, and one run: what a link inside the page opens.
(() => {
  const { make, svg, pairs, command, level, signed, interval, percent, p } = Report;

  /** Predictions shown before the reader asks for all. */
  const FIRST = 10;

  const title = Report.title = (text, ...more) => make("div", {}, make("p", {}, make("a", { href: "#tables", class: "back" }, "← Report")), make("h1", { tabindex: "-1" }, text), ...more);

  // ------------------------------------------------------------------------------------------------------ number
  function versus(found, metric) {
    const shown = `${signed(found.mean, metric)} ${interval(found, metric, signed)}`;
    const unit = metric === "accuracy" ? " points" : " nats";
    return pairs([
      [`Minus ${found.other}`, `${shown}${unit}`],
      ["Degrees of freedom", found.dof === null ? "one seed: of its examples alone" : found.dof.toFixed(1)],
      ["Word", found.verdict === null ? "none: described, not decided" : Report.verdict(found.verdict)],
      ["Family", found.family],
      ["p", found.p_adjusted === null ? null : `${p(found.p_adjusted)} after Holm's correction in the family`],
      ["p beyond the margin", found.p_equivalent === null ? null : `${p(found.p_equivalent)} after Holm's correction in the family`],
      ["Seeds", String(found.n_seeds)],
      ["Detectable", found.detectable === null ? null : `a true difference of ${level(found.detectable, metric)}${unit} would be found four times in five`],
    ]);
  }

  function paper(found) {
    return pairs([
      ["Paper's number", (100 * found.value).toFixed(2)],
      ["Ours against it", found.score],
      ["Paper's difference", found.difference === null ? null : `${signed(found.difference, "accuracy")} to ${found.other}`],
      ["Ours against it", found.difference_verdict],
      ["Seeds to settle", found.settle],
    ]);
  }

  function behind(entry, data) {
    const header = ["Run", "Status", entry.metric === "accuracy" ? "Accuracy, %" : "Gold NLL", "n", "Commit", "Spec"];
    const rows = entry.runs.map((id) => {
      const run = data.run.get(id);
      const tasks = entry.task ? [entry.task] : Object.keys(run.tasks).filter((task) => data.split(run, task) === "test");
      const values = tasks.map((task) => run.tasks[task]?.[entry.metric]).filter((value) => value !== undefined && value !== null);
      const n = tasks.map((task) => run.tasks[task]?.n ?? 0).reduce((a, b) => a + b, 0);
      const shown = values.map((value) => level(value, entry.metric)).join(", ");
      return [Report.runLink(run), Report.verdict(run.status), shown || "—", n || "—", run.train?.git?.commit?.slice(0, 8) ?? "—", run.train?.training_hash ?? "—"];
    });
    return Report.table("Runs behind this number", header, rows);
  }

  /** From a number to the method that it is compared with: both side by side, and the examples that only one solves. */
  function besideLinks(entry, data) {
    const run = data.run.get(entry.runs[0]);
    const other = data.runs.find((one) => one.method === entry.versus?.other && one.domain === run?.domain && one.model_key === run?.model_key);
    if (!other) return [];
    const [mine, theirs] = [run, other].map((one) => [one.domain, one.model_key, one.method_key].join("/"));
    const flips = ["#flips", run.domain, run.model_key, entry.task, run.method_key, other.method_key].join("/");
    const link = (address, words) => make("p", {}, make("a", { href: address }, words));
    const beside = link(`#pair/${mine}~${theirs}`, `${entry.method} and ${entry.versus.other} side by side: scores, losses, settings`);
    return [beside, entry.task ? link(flips, `Examples that only ${entry.method} or only ${entry.versus.other} solves`) : null].filter((one) => one !== null);
  }

  Report.numberView = (key, data) => {
    const entry = data.number.get(key);
    if (!entry) return title("No such number", make("p", {}, key));
    const { ours, metric } = entry;
    const unit = metric === "accuracy" ? " %" : " nats per token";
    const nothing = entry.failed || (entry.missing ? "not run" : "not measured");
    const view = title(`${entry.method} on ${entry.column}`);
    view.append(
      pairs([
        ["Table", `${entry.table}: ${metric === "accuracy" ? "accuracy" : "NLL of the gold answer"}`],
        ["Base model", entry.model],
        ["Ours", ours ? `${level(ours.mean, metric)} ± ${level(ours.stderr, metric)}${unit}, 95 % interval ${interval(ours, metric, level)}` : nothing],
        ["Seeds", [entry.seeds.join(", "), entry.failed, entry.collapsed, entry.missing ? `${entry.missing} not run` : ""].filter(Boolean).join("; ")],
        ["Examples", ours ? String(ours.n_examples) : null],
      ]),
    );
    for (const found of [entry.versus, entry.parent]) if (found) view.append(make("h2", {}, `Difference to ${found.other}`), versus(found, metric));
    if (entry.paper) view.append(make("h2", {}, "Beside the paper"), paper(entry.paper));
    view.append(make("h2", {}, "The runs behind it"), behind(entry, data));
    view.append(...besideLinks(entry, data));
    view.append(make("h2", {}, "Again, in a terminal"));
    if (entry.trace) view.append(command(entry.trace));
    for (const id of entry.runs) view.append(command(data.run.get(id).commands.again));
    return view;
  };

  // --------------------------------------------------------------------------------------------------------- run
  /** Curves over optimizer steps: lines of {name, colour, points: [[step, loss]], dashed}, and marks at steps. */
  Report.lossChart = (lines, marks, caption) => {
    const [width, height, left, bottom, top] = [640, 220, 46, 26, 10];
    const known = lines.map((line) => line.points.filter(([, loss]) => loss !== null));
    const last = Math.max(...lines.flatMap((line) => line.points.map(([step]) => step)));
    const highest = Math.max(...known.flatMap((points) => points.map(([, loss]) => loss)));
    const x = (step) => left + ((width - left - 8) * step) / last;
    const y = (loss) => height - bottom - ((height - bottom - top) * loss) / highest;
    const words = lines.map(({ name }, i) => {
      const [[first, before], [end, after]] = [known[i][0], known[i].at(-1)];
      return `Training loss${name ? ` of ${name}` : ""} from ${before.toFixed(3)} at step ${first} to ${after.toFixed(3)} at step ${end}`;
    });
    const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words.join("; ") });
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const value = part * highest;
      chart.append(svg("line", { class: "axis", x1: left, x2: width - 8, y1: y(value), y2: y(value) }), svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
      chart.append(svg("text", { x: x(part * last), y: height - 8, "text-anchor": part === 1 ? "end" : "middle" }, String(Math.round(part * last))));
    }
    for (const step of marks) chart.append(svg("line", { class: "mark", x1: x(step), x2: x(step), y1: top, y2: height - bottom }));
    known.forEach((points, i) => {
      const places = points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
      chart.append(svg("polyline", { class: lines[i].dashed ? "curve dashed" : "curve", points: places, style: { "--method": lines[i].colour } }));
    });
    return make("figure", {}, chart, make("figcaption", { class: "meta" }, caption));
  };

  function loss(run) {
    const steps = (run.operations?.rows ?? []).map(({ step }) => step);
    const caption = `Training loss over optimizer steps${run.operations ? "; dashed: operations" : ""}.`;
    return [make("h2", {}, "Loss"), Report.lossChart([{ name: "", colour: run.colour, points: run.loss, dashed: false }], steps, [caption])];
  }

  function operations(run) {
    const { modules, rows } = run.operations;
    const most = Math.max(1, ...rows.flatMap((row) => row.ranks));
    const number = (value) => (value === null ? "—" : value.toFixed(4));
    const list = Report.table(
      "Operations",
      ["Step", "Threshold p", "Ranks replaced", "Loss before", "Loss after"],
      rows.map((row) => [row.step, row.p.toFixed(4), row.ranks.reduce((a, b) => a + b, 0), number(row.before), number(row.after)]),
    );
    const shade = (k) => ({ style: { "--share": `${Math.round((90 * k) / most)}%`, "--method": run.colour } });
    const heat = make(
      "table",
      { class: "heat", "aria-label": "Ranks replaced by module and operation" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Module"), rows.map((row) => make("th", { scope: "col" }, String(row.step))))),
      make("tbody", {}, modules.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name), rows.map((row) => make("td", shade(row.ranks[i]), String(row.ranks[i])))))),
    );
    const region = make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Ranks replaced by module" }, heat);
    return [make("h2", {}, "Operations"), list, make("details", {}, make("summary", {}, "Ranks replaced in each module, by step"), region)];
  }

  function scores(run) {
    const graders = [...new Set(Object.values(run.tasks).flatMap((task) => Object.keys(task.graders ?? {})))];
    const header = ["Test set", "Accuracy, %", "n", "Grader", ...graders.map((name) => `by ${name}, %`), "Unparseable, %", "Truncated, %", "Timed out, %", "Gold NLL"];
    const rows = Object.entries(run.tasks).map(([task, found]) => [
      task, percent(found.accuracy), found.n, found.graded ? `${found.grader} (graded ${found.graded})` : found.grader, ...graders.map((name) => percent(found.graders?.[name])),
      percent(found.unparseable), percent(found.truncated), percent(found.timed_out), found.gold_nll?.toFixed(4) ?? "—",
    ]);
    return [make("h2", {}, "Scores"), Report.table("Scores", header, rows)];
  }

  function pruning(run) {
    const tasks = Object.entries(run.pruning);
    const unit = (curve) => (curve.metric === "accuracy" ? "%" : "nats per token");
    const header = ["Ranks pruned, %", ...tasks.map(([task, curve]) => `${task}, ${unit(curve)}`)];
    const rows = tasks[0][1].fractions.map((share, i) => [Math.round(100 * share), ...tasks.map(([, curve]) => level(curve.means[i], curve.metric))]);
    const name = tasks[0][1].metric === "accuracy" ? "Accuracy after pruning" : "NLL of the gold answer after pruning";
    return [make("h2", {}, name), Report.table(name, header, rows)];
  }

  /** What an answer is worth: 1, 0, or 1/k of a tie between k choices. */
  Report.credit = (digit) => (digit === "0" ? 0 : 1 / Number(digit));
  const mark = (worth) => (Number(worth) === 1 ? "✓" : worth ? "≈" : "✗");

  /** How an answer was graded; null: the task asks for none. */
  function solved(correct, extracted) {
    if (correct === null) return ["not asked to answer "];
    const word = correct === 1 ? "solved" : correct ? `${correct.toFixed(2)} of a tie` : "not solved";
    return [make("span", { class: correct ? "right" : "wrong" }, `${mark(correct)} ${word}`), ` · extracted: ${extracted ?? "nothing"} `];
  }

  Report.item = (question, gold, shown, id) => {
    const answers = shown.map(([name, colour, answer, correct]) => {
      const [completion, extracted, verdicts, outcome, truncated] = answer;
      const graders = Object.entries(verdicts ?? {}).map(([grader, right]) => make("span", { class: right ? "right" : "wrong" }, `${mark(right)}\u00a0${grader} `));
      const remarks = [outcome, truncated ? "truncated" : null].filter(Boolean).join(", ");
      return make("div", {}, make("p", { class: "meta" }, colour ? Report.swatch(colour) : null, make("strong", {}, name), " ", ...solved(correct, extracted), graders, remarks), make("pre", { tabindex: "0" }, completion ?? "(no text in the record)"));
    });
    const asked = make("details", {}, make("summary", {}, "Prompt"), make("pre", { tabindex: "0" }, question ?? "(no prompt in the record)"));
    return make("article", { class: "item" }, make("h3", {}, id), asked, make("p", { class: "meta" }, `gold: ${gold ?? "—"}`), make("div", { class: shown.length > 1 ? "two" : "one" }, answers));
  };

  function samples(run, data) {
    const tasks = Object.entries(data.answers.runs[run.id] ?? {});
    if (!tasks.length) return [];
    const list = make("div", { "aria-live": "polite" });
    const task = make("select", { id: "sample-task" }, tasks.map(([name]) => make("option", { value: name }, name)));
    const which = make("select", { id: "sample-which" }, [["all", "all"], ["1", "solved"], ["0", "not solved"]].map(([value, text]) => make("option", { value }, text)));
    const show = () => {
      const found = data.answers.runs[run.id][task.value];
      const group = data.answers.groups[found.group];
      const items = group.shown.map((at, i) => [at, i]).filter(([at]) => which.value === "all" || found.bits[at] === which.value);
      const all = items.map(([at, i]) => Report.item(group.prompts[i], group.gold[i], [[run.method, run.colour, found.answers[i], found.bits ? Report.credit(found.bits[at]) : null]], group.ids[at]));
      list.replaceChildren(make("p", { class: "meta" }, `${items.length} of ${group.ids.length} examples; all in ${run.folder}/predictions/${task.value}.jsonl`), ...all.slice(0, FIRST));
      if (all.length > FIRST) list.append(make("button", { type: "button", onclick: (event) => event.target.replaceWith(...all.slice(FIRST)) }, `Show ${all.length - FIRST} more`));
    };
    for (const select of [task, which]) select.addEventListener("change", show);
    show();
    return [make("h2", {}, "Predictions"), make("div", { class: "controls" }, make("label", {}, "Test set", task), make("label", {}, "Show", which)), list];
  }

  /** What a method recorded as proof that it acted: numbers and lists in words, values by module in a table that opens. */
  function proof(evidence) {
    const words = (value) => {
      if (Array.isArray(value)) return value.map(words).join(", ");
      if (value === null || typeof value !== "object") return Report.number(value);
      return Object.entries(value).map(([name, one]) => `${name} ${words(one)}`).join(", ");
    };
    const byModule = (name, values) => {
      const rows = Object.entries(values).map(([module, value]) => [module, typeof value === "number" ? { order: value, text: words(value) } : words(value)]);
      return make("details", {}, make("summary", {}, `${rows.length} modules`), Report.table(`Proof: ${name} by module`, ["Module", name], rows));
    };
    return pairs(Object.entries(evidence).map(([key, value]) => {
      const [name, several] = [key.replaceAll("_", " "), value !== null && typeof value === "object" && !Array.isArray(value)];
      return [name, several ? byModule(name, value) : words(value)];
    }));
  }

  /** What train.json says of a run, as pairs of a name and a text. */
  Report.facts = (run) => {
    const t = run.train;
    const number = (value, unit, scale = 1) => (value === null || value === undefined ? null : `${Report.number(value / scale)} ${unit}`);
    return [
      ["Trained", t.created_at], ["Trainable parameters", t.trainable_parameters?.toLocaleString("en")], ["Steps", t.steps],
      ["Wall time", number(t.wall_time_s, "s")], ["CPU time", number(t.cpu_time_s, "s")],
      ["Peak memory", t.peak_memory_bytes ? `${number(t.peak_memory_bytes, "GiB", 2 ** 30)}${t.peak_memory_of ? ` (${t.peak_memory_of})` : ""}` : null],
      ["Commit", t.git?.commit ? `${t.git.commit}${t.git.dirty ? " with uncommitted changes" : ""}` : null],
      ["Hardware", t.hardware ? `${t.hardware.cpu}, ${(t.hardware.accelerators ?? []).join(", ") || "no accelerator"}` : null],
      ["Spec hash", t.training_hash], ["Base model", t.base_model_hash], ["Training data", t.data?.sha256],
      ...Object.entries(t.artefact ?? {}), ["Software", t.versions ? Object.entries(t.versions).map((pair) => pair.join(" ")).join(", ") : null],
    ];
  };

  Report.runView = (id, data) => {
    const run = data.run.get(id);
    if (!run) return title("No such run", make("p", {}, id));
    const seed = run.seed === null ? "" : `, seed ${run.seed}`;
    const view = title(`${run.method} on ${run.model}${seed}`, make("p", {}, Report.swatch(run.colour), make("code", {}, run.folder), " ", Report.verdict(run.status)));
    if (!run.train) {
      const why = run.status === "stale" ? "Its record was made with other settings than the experiment has now." : "Not run.";
      view.append(make("p", { class: "note warn" }, why), command(run.commands.again));
      return view;
    }
    if (run.status === "diverged") view.append(make("p", { class: "note warn" }, `This run failed: ${run.train.reason ?? "it diverged"}. It has no numbers and is in no mean.`));
    if (run.collapsed?.length) view.append(make("p", { class: "note warn" }, `This run collapsed: it answers ${run.collapsed.join(", ")} no better than a constant. It is in the means.`));
    view.append(make("p", {}, make("a", { href: `#pair/${run.id}` }, "Side by side with another run")), pairs(Report.facts(run)));
    if (Object.keys(run.train.evidence ?? {}).length) view.append(make("h2", {}, "Proof that the method acted"), proof(run.train.evidence));
    if (Object.keys(run.tasks).length) view.append(...scores(run));
    if (run.loss.some(([, loss]) => loss !== null)) view.append(...loss(run));
    if (run.operations?.rows.length) view.append(...operations(run));
    if (run.pruning && Object.keys(run.pruning).length) view.append(...pruning(run));
    view.append(...samples(run, data));
    if (run.train.spec) view.append(make("h2", {}, "Settings"), make("details", {}, make("summary", {}, "Everything that can change its numbers"), make("pre", { class: "spec", tabindex: "0" }, JSON.stringify(run.train.spec, null, 2))));
    view.append(make("h2", {}, "Again, in a terminal"), command(run.commands.again));
    return view;
  };
})();
