// The page for operators: it is requested again every two seconds while it is visible.
import { page } from "./api.js";
import { announce } from "./page.js";

class ShardsView extends HTMLElement {
  connectedCallback() {
    this.schedule();
    document.addEventListener("visibilitychange", () => this.schedule());
  }

  schedule() {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), Number(this.dataset.every));
  }

  async refresh() {
    try {
      const next = (await page(location.href)).querySelector("shards-view");
      this.replaceParts(next);
      this.lost(false);
    } catch {
      this.lost(true);
    }
    this.schedule();
  }

  /** Replaces the parts that differ, so that the focus and a selection elsewhere survive. */
  replaceParts(next) {
    const summary = this.querySelector(".summary");
    const told = next.querySelector(".summary").textContent;
    if (summary.textContent !== told) announce(told);
    const [old, made] = [[...this.querySelectorAll(".summary, section")], [...next.querySelectorAll(".summary, section")]];
    if (old.length !== made.length) {
      this.querySelector(".board").replaceWith(next.querySelector(".board"));
      return;
    }
    old.forEach((part, index) => {
      if (part.innerHTML === made[index].innerHTML) return;
      // A region that is scrolled by the keyboard keeps the focus.
      const scrolled = part.querySelector(".scroll");
      const table = made[index].querySelector(".scroll > table");
      if (scrolled && table && scrolled.contains(document.activeElement)) scrolled.replaceChildren(table);
      else part.replaceWith(made[index]);
    });
  }

  lost(isLost) {
    const text = "This server does not answer. The figures are those of the last answer.";
    const shown = this.querySelector(".notice.lost");
    if (!isLost) shown?.remove();
    else if (!shown) {
      const notice = Object.assign(document.createElement("p"), { className: "notice error lost", textContent: text });
      this.querySelector(".head").after(notice);
      announce(text);
    }
  }
}

customElements.define("shards-view", ShardsView);
