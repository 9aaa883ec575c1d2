// The link was good: keep the page's word for this tab, and leave the address behind.
"use strict";
sessionStorage.setItem("ocd-page", document.querySelector("meta[name=ocd-page]").content);
location.replace("/");
