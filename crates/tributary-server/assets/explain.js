// The drawer that shows how a page was read: the page of the server for it, beside the timeline.
import { page } from "./api.js";
import { element, failure } from "./page.js";

class ExplainDrawer {
  constructor() {
    this.title = element("h1", { id: "explain-title", tabIndex: -1 }, "How this page was read");
    this.body = element("div");
    const close = element("form", { method: "dialog" }, element("button", { className: "primary" }, "Close"));
    const head = element("div", { className: "head" }, this.title);
    this.dialog = element("dialog", { className: "drawer" }, close, head, this.body);
    this.dialog.setAttribute("aria-labelledby", "explain-title");
    this.dialog.onclose = () => this.dialog.remove();
    document.body.append(this.dialog);
  }

  /** Replaces what is below the title. The title gets the focus, because what had it may be replaced. */
  async show(href) {
    this.href = href;
    this.body.replaceChildren(loading());
    this.dialog.setAttribute("aria-busy", "true");
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.title.focus();
    const content = await this.load(href);
    // Another page was requested in the meantime.
    if (this.href !== href) return;
    this.body.replaceChildren(content);
    this.dialog.removeAttribute("aria-busy");
  }

  /** The explanation of a page, or the notice that it cannot be loaded. */
  async load(href) {
    try {
      const explained = (await page(href)).querySelector(".explained");
      explained.querySelector(".head").remove();
      return explained;
    } catch (error) {
      return failure(`The page cannot be explained. ${error.message}`, () => this.show(href));
    }
  }
}

function loading() {
  const bones = element("div", { className: "loading" });
  bones.append(...Array.from({ length: 3 }, () => element("i")));
  return bones;
}

let drawer;
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.explain-link");
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  // The page for it needs no drawer.
  if (!link || elsewhere || document.querySelector("main > .explained")) return;
  event.preventDefault();
  if (!drawer?.dialog.isConnected) drawer = new ExplainDrawer();
  drawer.show(link.href);
});
