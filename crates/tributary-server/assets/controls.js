// Controls: follow, mute and block, theme, dialogs.
import { call } from "./api.js";
import { element, reader, toast } from "./page.js";

/** For each list of the reader: what the button does, and what has happened then. */
const RELATIONS = {
  following: ["Follow", "Unfollow", "You follow", "You no longer follow"],
  mutes: ["Mute", "Unmute", "You mute", "You no longer mute"],
  blocks: ["Block", "Unblock", "You block", "You no longer block"],
};

/** Adds a user to a list of the reader, or removes the user. */
class RelationButton extends HTMLElement {
  connectedCallback() {
    this.button = element("button", { type: "button", onclick: () => this.toggle() });
    this.replaceChildren(this.button);
    this.show();
  }

  get isOn() {
    return this.dataset.on === "true";
  }

  show() {
    const [add, remove] = RELATIONS[this.dataset.list];
    const name = element("span", { className: "unseen" }, ` ${this.dataset.name}`);
    this.button.replaceChildren(this.isOn ? remove : add, name);
    this.button.classList.toggle("primary", this.dataset.list === "following" && !this.isOn);
  }

  async toggle() {
    this.button.disabled = true;
    const path = `/v1/users/${reader}/${this.dataset.list}/${this.dataset.user}`;
    try {
      await call(this.isOn ? "DELETE" : "PUT", path);
      this.dataset.on = String(!this.isOn);
      this.show();
      const [, , added, removed] = RELATIONS[this.dataset.list];
      toast(`${this.isOn ? added : removed} ${this.dataset.name}.`);
    } catch (error) {
      toast(`Nothing has changed. ${error.message}`);
    } finally {
      this.button.disabled = false;
      this.button.focus({ preventScroll: true });
    }
  }
}

class ThemeSwitch extends HTMLElement {
  connectedCallback() {
    const root = document.documentElement;
    const options = ["system", "light", "dark"].map((name) =>
      element("option", { value: name, selected: root.dataset.theme === name }, name[0].toUpperCase() + name.slice(1)));
    const select = element("select", {}, ...options);
    select.onchange = () => {
      root.dataset.theme = select.value;
      document.cookie = `tributary-theme=${select.value}; Max-Age=31536000; Path=/; SameSite=Strict`;
    };
    this.replaceChildren(element("label", {}, element("span", {}, "Theme"), select));
  }
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) document.getElementById(opener.dataset.open).showModal();
});

customElements.define("relation-button", RelationButton);
customElements.define("theme-switch", ThemeSwitch);
