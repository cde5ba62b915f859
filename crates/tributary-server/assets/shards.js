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
      this.update(next);
      this.lost(false);
    } catch {
      this.lost(true);
    }
    this.schedule();
  }

  /** Shows the next figures. If the link that has the focus moves, the focus moves with it. */
  update(next) {
    const summary = next.querySelector(".summary").textContent;
    if (this.querySelector(".summary").textContent !== summary) announce(summary);
    const focused = this.contains(document.activeElement) ? document.activeElement : null;
    const region = focused?.closest(".scroll");
    for (const part of [".summary", ".board"]) morph(this.querySelector(part), next.querySelector(part));
    if (!focused || focused.isConnected) return;
    const link = [...this.querySelectorAll("a")].find((one) => isSame(one, focused));
    const heirs = [link, region, document.getElementById("main")];
    heirs.find((one) => one?.isConnected).focus({ preventScroll: true });
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

/**
 * Makes an element like the next one. Elements that both have are kept: so are their focus, their
 * scroll offset, and a click that has begun.
 */
function morph(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || !isSame(old, next)) {
    old.replaceWith(next);
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) old.setAttribute(name, value);
  const [shown, made] = [[...old.childNodes], [...next.childNodes]];
  made.forEach((node, index) => (shown[index] ? morph(shown[index], node) : old.append(node)));
  shown.slice(made.length).forEach((node) => node.remove());
}

/** Whether two elements are of the same kind, and lead to the same page if they are links. */
function isSame(one, other) {
  return one.nodeName === other.nodeName && one.getAttribute("href") === other.getAttribute("href");
}

customElements.define("shards-view", ShardsView);
