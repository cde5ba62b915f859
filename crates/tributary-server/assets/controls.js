// Controls: follow, theme, dialogs.
import { call } from "./api.js";
import { element, reader, toast } from "./page.js";

class FollowButton extends HTMLElement {
  connectedCallback() {
    this.button = element("button", { type: "button", onclick: () => this.toggle() });
    this.replaceChildren(this.button);
    this.show();
  }

  get followed() {
    return this.dataset.followed === "true";
  }

  show() {
    const name = element("span", { className: "unseen" }, ` ${this.dataset.name}`);
    this.button.replaceChildren(this.followed ? "Unfollow" : "Follow", name);
    this.button.classList.toggle("primary", !this.followed);
  }

  async toggle() {
    this.button.disabled = true;
    const path = `/v1/users/${reader}/following/${this.dataset.user}`;
    try {
      await call(this.followed ? "DELETE" : "PUT", path);
      this.dataset.followed = String(!this.followed);
      this.show();
      const what = this.followed ? "You follow" : "You no longer follow";
      toast(`${what} ${this.dataset.name}.`);
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

customElements.define("follow-button", FollowButton);
customElements.define("theme-switch", ThemeSwitch);
