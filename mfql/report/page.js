// Shows what the form asks for and keeps that in the address's fragment: #scores&suite=ogbench&method=mfql&task=cube.
// Nothing ticked shows all. A fragment's first part may be the id of a place on the page.
(() => {
  "use strict";
  const form = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const numbers = new Map([...form.querySelectorAll("[name=method]")].map((box) => [box.value, box.dataset.number]));
  // Children before what holds them: a group whose members are all hidden is hidden too.
  const parts = [...document.querySelectorAll("[data-task], [data-suite], [data-of], [data-group]")]
    .reverse()
    .map((element) => ({
      element,
      suite: element.dataset.suite,
      task: element.dataset.task?.toLowerCase(),
      methods: element.dataset.of?.split(" "),
      members: [],
      hidden: false,
    }));
  const byElement = new Map(parts.map((part) => [part.element, part]));
  for (const part of parts) {
    const group = part.element.parentElement.closest("[data-group]");
    if (group && part.element.dataset.aside === undefined) byElement.get(group).members.push(part);
  }
  const counted = [...document.querySelectorAll("[data-score]")];

  const wanted = () => {
    const asked = new FormData(form);
    const alternatives = asked.get("task").toLowerCase().split(",").map((words) => words.split(/\s+/).filter(Boolean));
    return {
      tasks: alternatives.filter((words) => words.length),
      suites: new Set(asked.getAll("suite")),
      methods: new Set(asked.getAll("method").map((name) => numbers.get(name))),
    };
  };

  const fits = (part, { tasks, suites, methods }) => {
    if (part.suite !== undefined && suites.size && !suites.has(part.suite)) return false;
    if (part.task !== undefined && tasks.length) {
      if (!tasks.some((words) => words.every((word) => part.task.includes(word)))) return false;
    }
    if (part.methods === undefined || !methods.size) return true;
    // A comparison of two methods needs both, or the only one that is ticked.
    const found = part.methods.filter((method) => methods.has(method)).length;
    return found >= Math.min(part.methods.length, methods.size);
  };

  let announcing;
  const announce = () => {
    const visible = counted.filter((row) => !row.closest("[hidden]")).length;
    const text = `${visible} of ${counted.length} scores shown.`;
    clearTimeout(announcing);
    announcing = setTimeout(() => { shown.textContent = text; }, 150);
  };

  const apply = () => {
    const asked = wanted();
    for (const part of parts) {
      const empty = part.members.length > 0 && part.members.every((member) => member.hidden);
      part.hidden = empty || !fits(part, asked);
      part.element.toggleAttribute("hidden", part.hidden);
    }
    announce();
  };

  const place = () => {
    const first = location.hash.slice(1).split("&")[0];
    return first.includes("=") ? "" : first;
  };

  const remember = () => {
    const state = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim()) state.append(name, value.trim());
    const fragment = [place(), state.toString()].filter(Boolean).join("&");
    history.replaceState(null, "", location.href.split("#")[0] + (fragment ? `#${fragment}` : ""));
  };

  const restore = () => {
    const parts = location.hash.slice(1).split("&").filter((part) => part.includes("="));
    const state = new URLSearchParams(parts.join("&"));
    for (const box of form.querySelectorAll("[type=checkbox]")) box.checked = state.getAll(box.name).includes(box.value);
    form.elements.task.value = state.get("task") ?? "";
  };

  const go = () => {
    const target = document.getElementById(place());
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  };

  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { apply(); remember(); }));
  addEventListener("hashchange", () => {
    if (place() && !location.hash.includes("=")) remember(); // a link within the page keeps the filter
    else { restore(); apply(); }
    go();
  });
  form.hidden = false;
  restore();
  apply();
  go();
})();
