// Start: theme, tables, and what an address after # shows.
(() => {
  const { make } = Report;
  const root = document.documentElement;

  function theme() {
    const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const apply = (name) => {
      root.classList.toggle("dark", name === "dark");
      document.getElementById("theme").setAttribute("aria-pressed", String(name === "dark"));
    };
    const current = () => stored() ?? (dark.matches ? "dark" : "light");
    apply(current());
    dark.addEventListener("change", () => apply(current()));
    document.getElementById("theme").addEventListener("click", () => {
      const next = root.classList.contains("dark") ? "light" : "dark";
      try { localStorage.setItem("theme", next); } catch { /* private mode: for this visit only */ }
      apply(next);
    });
  }

  function copying() {
    document.addEventListener("click", async (event) => {
      const button = event.target.closest?.(".copy");
      if (!button) return;
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }

  /** On paper nothing can be opened: what explains the tables is printed open. */
  function printing() {
    window.addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll("details.printed, details.chapter")) details.open = true;
    });
  }

  const chapter = (element) => element?.closest("section")?.querySelector(":scope > details.chapter");

  /** On a phone the chapters are closed until one asks for them: the page opens with the verdicts, and then with its contents. */
  function folding() {
    if (matchMedia("(max-width: 40rem)").matches) for (const details of document.querySelectorAll("details.chapter")) details.open = false;
    // Also for the address where the reader already is, of which the browser reports no change.
    document.addEventListener("click", (event) => {
      const address = event.target.closest?.("a")?.getAttribute("href") ?? "";
      const folded = address.startsWith("#") ? chapter(document.getElementById(address.slice(1))) : null;
      if (folded) folded.open = true;
    });
  }

  const text = DataTable.render.text();

  function numbersTable(data) {
    const column = (title, value, shown = (v) => v) => ({
      title,
      data: null,
      render: (_, type, entry) => {
        const found = value(entry);
        if (type === "sort" || type === "type") return found ?? "";
        return found === null || found === undefined ? "—" : text.display(String(shown(found, entry)));
      },
    });
    const versus = (entry) => entry.versus ?? entry.parent;
    return Report.sortable(document.getElementById("numbers-table"), {
      data: data.numbers,
      columns: [
        column("Table", (e) => e.table),
        column("Base model", (e) => e.model),
        column("Method", (e) => e.method),
        column("Test set", (e) => e.column),
        column("Measure", (e) => e.metric.replace("_", " ")),
        column("Paper", (e) => e.paper?.value, (v) => (100 * v).toFixed(2)),
        column("Ours", (e) => e.ours?.mean, (v, e) => Report.level(v, e.metric)),
        column("95 % interval", (e) => e.ours?.low, (_, e) => Report.interval(e.ours, e.metric, Report.level)),
        column("Seeds", (e) => e.seeds.length, (v, e) => [v, ...[e.failed, e.collapsed].filter(Boolean).map((words) => `(${words})`)].join(" ")),
        column("n", (e) => e.ours?.n_examples),
        column("Minus", (e) => versus(e)?.other),
        column("Difference", (e) => versus(e)?.mean, (v, e) => `${Report.signed(v, e.metric)} ${Report.interval(versus(e), e.metric, Report.signed)}`),
        column("p (Holm)", (e) => versus(e)?.p_adjusted, Report.p),
        column("df", (e) => versus(e)?.dof, (v) => v.toFixed(1)),
        column("Family", (e) => versus(e)?.family),
        column("Word", (e) => versus(e)?.verdict),
        column("Against the paper", (e) => e.paper?.score),
        column("Its difference", (e) => e.paper?.difference_verdict),
        column("Seeds to settle", (e) => e.paper?.settle),
        { title: "Runs", data: null, orderable: false, render: (_, type, e) => (type === "display" ? make("a", { href: `#number/${e.key.replaceAll("|", "/")}`, "aria-label": `Runs behind ${e.method} on ${e.column}` }, String(e.runs.length)) : e.runs.length) },
      ],
    });
  }

  function runsTable(data) {
    const plain = (title, value) => ({ title, data: null, render: (_, type, run) => (type === "display" ? text.display(String(value(run) ?? "—")) : value(run) ?? "") });
    const link = (run) => make("span", {}, Report.swatch(run.colour), make("a", { href: `#run/${run.id}` }, run.method));
    const score = (found) => (found.accuracy === null ? `${found.gold_nll?.toFixed(3) ?? "—"} nats` : Report.percent(found.accuracy));
    const mean = (run) => Object.entries(run.tasks).map(([task, found]) => `${task} ${score(found)}`).join(", ");
    return Report.sortable(document.getElementById("runs-table"), {
      data: data.runs,
      columns: [
        { title: "Method", data: null, render: (_, type, run) => (type === "display" ? link(run) : run.method) },
        plain("Base model", (run) => run.model), plain("Domain", (run) => run.domain), plain("Seed", (run) => run.seed),
        { title: "Status", data: null, render: (_, type, run) => (type === "display" ? Report.verdict(run.status) : run.status) },
        plain("Accuracy in %, or NLL", mean), plain("Training, s", (run) => (run.train?.wall_time_s === undefined ? null : Math.round(run.train.wall_time_s))),
        { title: "Compare", data: null, orderable: false, render: (_, type, run) => (type === "display" ? make("a", { href: `#pair/${run.id}`, "aria-label": `Compare ${run.id} with another run` }, "side by side") : "") },
      ],
    });
  }

  function prepare(data) {
    data.run = new Map(data.runs.map((run) => [run.id, run]));
    data.number = new Map(data.numbers.map((entry) => [entry.key.replaceAll("|", "/"), entry]));
    data.split = (run, task) => run.train?.spec?.evaluation?.tasks?.[task]?.split ?? "test";
    return data;
  }

  /** Show what the address names: a number, a run or two of them in place of the report, or a part of the report. */
  function router(data, showFlips) {
    const [report, view] = ["report", "view"].map((id) => document.getElementById(id));
    let [place, left] = [0, ""];
    const route = (event) => {
      const [kind, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
      const make = { number: Report.numberView, run: Report.runView, pair: Report.pairView }[kind];
      // The browser itself comes back to where the much shorter view ended.
      if (make && report.hidden === false) [place, left] = [window.scrollY, event ? new URL(event.oldURL).hash : ""];
      const back = !report.hidden === false;
      report.hidden = Boolean(make);
      view.hidden = !make;
      if (make) {
        view.replaceChildren(make(rest.join("/"), data));
        window.scrollTo(0, 0);
        view.querySelector("h1").focus({ preventScroll: true });
        document.title = `${view.querySelector("h1").textContent} · ${data.experiment}`;
        return;
      }
      document.title = data.title;
      if (kind === "flips" && rest.length === 5) showFlips(...rest);
      const target = document.getElementById(kind);
      const folded = chapter(target);
      if (folded) folded.open = true;
      if (back && (kind === "tables" || location.hash === left)) window.scrollTo(0, place);
      else if (target) target.scrollIntoView();
    };
    window.addEventListener("hashchange", route);
    if (location.hash) route();
  }

  async function start() {
    theme();
    copying();
    printing();
    folding();
    for (const table of document.querySelectorAll("table.data")) if (table.tBodies[0].rows.length > 3) Report.sortable(table);
    const data = prepare(JSON.parse(await Report.unpack("page-data")));
    data.title = document.title;
    numbersTable(data);
    runsTable(data);
    Report.plots(data.plots);
    router(data, Report.flips(document.getElementById("flips-app"), data));
    root.dataset.ready = "true";
  }

  start().catch((error) => {
    document.getElementById("content").prepend(make("p", { class: "note warn" }, `Runs and flips cannot be shown: ${error.message}`));
    throw error;
  });
})();
