"use strict";
// The language of a page: the browser's, or the one chosen last with the button, if the browser stores it.

const $ = (id) => document.getElementById(id);

function setLanguage(language) {
  document.documentElement.lang = language;
  document.title = document.querySelector("title").dataset[language];
  for (const element of document.querySelectorAll("[data-attribute]"))
    element.setAttribute(element.dataset.attribute, element.dataset[language]);
  $("language").textContent = language === "ko" ? "English" : "한국어";
  $("language").lang = language === "ko" ? "en" : "ko";
  dispatchEvent(new Event("language"));
}

$("language").hidden = false;
$("language").addEventListener("click", () => {
  setLanguage($("language").lang);
  try { localStorage.setItem("mate-language", document.documentElement.lang); } catch { /* not stored */ }
});
let stored = null;
try { stored = localStorage.getItem("mate-language"); } catch { /* no storage for this page */ }
setLanguage(["en", "ko"].includes(stored) ? stored : navigator.language.startsWith("ko") ? "ko" : "en");
