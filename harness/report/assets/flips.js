// Examples that only one of two methods solves, by set, model and seed.
(() => {
  const { make } = Report;
  const PAGE = 5;
  const unique = (values) => [...new Map(values.map((pair) => [pair[0], pair])).values()];

  /** Seeds that both methods finished, each with the two runs. */
  function shared(state, data) {
    const of = (method) => data.runs.filter((run) => run.domain === state.domain && run.model_key === state.model && run.method_key === method && data.answers.runs[run.id]?.[state.task]);
    return of(state.a).flatMap((a) => of(state.b).filter((b) => b.seed === a.seed).map((b) => ({ seed: a.seed, a, b })));
  }

  /** For every example how many of the chosen seeds of A and of B solve it. */
  function count(pairs, state, data) {
    const bits = (run) => data.answers.runs[run.id][state.task].bits;
    const size = pairs.length ? bits(pairs[0].a).length : 0;
    return Array.from({ length: size }, (_, i) => ({
      i,
      a: pairs.reduce((sum, pair) => sum + Report.credit(bits(pair.a)[i]), 0),
      b: pairs.reduce((sum, pair) => sum + Report.credit(bits(pair.b)[i]), 0),
    }));
  }

  /** The tasks of a run whose answers were graded. */
  const answered = (run, data) => Object.keys(data.answers.runs[run.id] ?? {}).filter((task) => data.answers.runs[run.id][task].bits);

  const kinds = {
    a: (item) => item.a > item.b,
    b: (item) => item.b > item.a,
    both: (item) => item.a === item.b && item.a > 0,
    none: (item) => item.a === 0 && item.b === 0,
  };

  function choices(state, data) {
    const runs = data.runs.filter((run) => answered(run, data).length);
    const tasks = runs.flatMap((run) => answered(run, data).map((task) => [`${run.domain}/${run.model_key}/${task}`, `${task} · ${run.domain === "base" ? "" : `${run.domain}, `}${run.model}`]));
    const methods = runs.filter((run) => run.domain === state.domain && run.model_key === state.model && data.answers.runs[run.id][state.task]).map((run) => [run.method_key, run.method]);
    return { sets: unique(tasks), methods: unique(methods) };
  }

  Report.flips = (place, data) => {
    const state = { domain: "", model: "", task: "", a: "", b: "", seed: "all", kind: "a", shown: PAGE };
    const select = (id, label, onchange) => {
      const element = make("select", { id, onchange: () => { onchange(element.value); draw(); } });
      return { element, label: make("label", {}, label, element) };
    };
    const fill = (element, options, value) => {
      element.replaceChildren(...options.map(([key, text]) => make("option", { value: key, selected: key === value }, text)));
    };
    const set = select("flip-set", "Test set and model", (value) => { [state.domain, state.model, state.task] = value.split("/"); state.seed = "all"; });
    const first = select("flip-a", "Method A", (value) => { state.a = value; state.seed = "all"; });
    const second = select("flip-b", "Method B", (value) => { state.b = value; state.seed = "all"; });
    const seed = select("flip-seed", "Seed", (value) => { state.seed = value; });
    const kind = select("flip-kind", "Solved by", (value) => { state.kind = value; });
    const result = make("div", { "aria-live": "polite" });
    place.append(make("div", { class: "controls" }, [set, first, second, seed, kind].map((one) => one.label)), result);

    function settle() {
      const { sets } = choices(state, data);
      if (!sets.some(([key]) => key === `${state.domain}/${state.model}/${state.task}`) && sets.length) [state.domain, state.model, state.task] = sets[0][0].split("/");
      const { methods } = choices(state, data);
      const keys = methods.map(([key]) => key);
      if (!keys.includes(state.a)) state.a = keys.includes("beamlora") ? "beamlora" : keys[0];
      if (!keys.includes(state.b) || state.b === state.a) state.b = keys.includes("lora") && state.a !== "lora" ? "lora" : keys.find((key) => key !== state.a) ?? keys[0];
      fill(set.element, sets, `${state.domain}/${state.model}/${state.task}`);
      fill(first.element, methods, state.a);
      fill(second.element, methods, state.b);
    }

    function answer(pair, state, data, at) {
      const group = data.answers.groups[data.answers.runs[pair.a.id][state.task].group];
      const i = group.shown.indexOf(at);
      if (i < 0) return make("article", { class: "item" }, make("h3", {}, group.ids[at]), make("p", { class: "meta" }, `line ${at + 1} of `, make("code", {}, `${pair.a.folder}/predictions/${state.task}.jsonl`), " and of ", make("code", {}, `${pair.b.folder}/predictions/${state.task}.jsonl`)));
      const shown = [pair.a, pair.b].map((run) => {
        const found = data.answers.runs[run.id][state.task];
        const seed = run.seed === null ? "" : `, seed ${run.seed}`;
        return [`${run.method}${seed}`, run.colour, found.answers[i], Report.credit(found.bits[at])];
      });
      return Report.item(group.prompts[i], group.gold[i], shown, group.ids[at]);
    }

    function draw() {
      state.shown = PAGE;
      settle();
      const all = shared(state, data);
      fill(seed.element, [["all", all.length > 1 ? `all ${all.length}` : "all"], ...all.map((pair) => [String(pair.seed), pair.seed === null ? "none" : String(pair.seed)])], state.seed);
      const pairs = state.seed === "all" ? all : all.filter((pair) => String(pair.seed) === state.seed);
      const items = count(pairs, state, data);
      const [nameA, nameB] = [first, second].map((one) => one.element.selectedOptions[0]?.textContent ?? "");
      const several = pairs.length > 1;
      const names = { a: several ? `more often ${nameA}` : `only ${nameA}`, b: several ? `more often ${nameB}` : `only ${nameB}`, both: several ? "both equally often" : "both", none: "neither" };
      const number = Object.fromEntries(Object.entries(kinds).map(([key, test]) => [key, items.filter(test).length]));
      fill(kind.element, Object.entries(names).map(([key, text]) => [key, `${text} (${number[key]})`]), state.kind);
      if (!pairs.length) return result.replaceChildren(make("p", {}, "No seed that both have finished."));
      const same = pairs.every((pair) => data.answers.runs[pair.a.id][state.task].group === data.answers.runs[pair.b.id][state.task].group);
      if (!same) return result.replaceChildren(make("p", { class: "note warn" }, "These two were not asked the same examples in the same words."));
      const chosen = items.filter(kinds[state.kind]).sort((x, y) => Math.abs(y.a - y.b) - Math.abs(x.a - x.b) || x.i - y.i);
      list(chosen, pairs, several, names, number);
    }

    function list(chosen, pairs, several, names, number) {
      const summary = Object.entries(names).map(([key, text]) => `${text}: ${number[key]}`).join(" · ");
      const render = (item) => {
        // Of several seeds, the first one that shows the flip.
        const bit = (run) => Report.credit(data.answers.runs[run.id][state.task].bits[item.i]);
        const pair = pairs.find((one) => (bit(one.a) > bit(one.b)) === (item.a > item.b) && bit(one.a) !== bit(one.b)) ?? pairs[0];
        const article = answer(pair, state, data, item.i);
        if (several) article.querySelector("h3").append(` · solved by ${item.a} of ${pairs.length} seeds of A, ${item.b} of B`);
        return article;
      };
      const more = make("button", { type: "button" }, `Show more`);
      const show = () => {
        result.replaceChildren(make("p", { id: "flip-summary" }, summary), ...chosen.slice(0, state.shown).map(render));
        if (chosen.length > state.shown) result.append(more);
      };
      more.addEventListener("click", () => { state.shown += PAGE; show(); });
      show();
    }

    draw();
    return (domain, model, task, a, b) => { Object.assign(state, { domain, model, task, a, b, seed: "all", kind: "a" }); draw(); };
  };
})();
