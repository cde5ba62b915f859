// The drawer that shows how a page was read: the page of the server for it, beside the timeline.
import { page } from "./api.js";
import { element, failure } from "./page.js";

class ExplainDrawer {
  constructor() {
    this.body = element("div");
    const close = element("form", { method: "dialog" }, element("button", { className: "primary" }, "Close"));
    this.dialog = element("dialog", { className: "drawer" }, close, this.body);
    this.dialog.setAttribute("aria-labelledby", "explain-title");
    this.dialog.onclose = () => this.dialog.remove();
    document.body.append(this.dialog);
  }

  async show(href) {
    this.href = href;
    const title = element("h1", { id: "explain-title" }, "How this page was read");
    this.body.replaceChildren(element("div", { className: "head" }, title), loading());
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.setAttribute("aria-busy", "true");
    try {
      const explained = (await page(href)).querySelector(".explained");
      if (this.href !== href) return;
      this.body.replaceChildren(explained);
      this.dialog.scrollTop = 0;
      this.body.querySelector("h1").focus();
    } catch (error) {
      const again = () => this.show(href);
      this.body.replaceChildren(failure(`The page cannot be explained. ${error.message}`, again));
    } finally {
      this.dialog.removeAttribute("aria-busy");
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
