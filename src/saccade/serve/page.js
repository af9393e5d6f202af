"use strict";
const by = (name) => document.getElementById(name);
let picture = null;

function say(text, wrong) {
  by("state").textContent = text;
  by("state").classList.toggle("wrong", Boolean(wrong));
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) return say("That is not a picture.", true);
  const reader = new FileReader();
  reader.onload = () => {
    picture = reader.result;
    by("shown").src = picture;
    by("shown").hidden = false;
    by("hint").textContent = file.name;
    say("");
  };
  reader.onerror = () => say("The file cannot be read.", true);
  reader.readAsDataURL(file);
}

function fill(name, side, rows) {
  const cells = by(name).querySelectorAll("td");
  const told = [side.answer, (1000 * side.seconds).toFixed(1) + " ms", (1000 * side.tflops).toPrecision(3) + " GFLOPs", rows];
  told.forEach((text, n) => { cells[n].textContent = text; });
}

async function ask() {
  const headers = { "Content-Type": "application/json" };
  if (by("key")) headers.Authorization = "Bearer " + by("key").value;
  const body = JSON.stringify({ image: picture, question: by("question").value, plan: by("plan").value });
  const response = await fetch("compare", { method: "POST", headers, body });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error.message);
  by("spec").textContent = found.plan;
  fill("dense", found.dense, String(found.rows));
  fill("planned", found.planned, found.kept.toFixed(1));
  const same = found.dense.answer === found.planned.answer ? "The same answer" : "Another answer";
  by("verdict").textContent = `${same}, for ${(100 * found.flops_ratio).toFixed(1)} % of the FLOPs and `
    + `${(100 * found.planned.seconds / found.dense.seconds).toFixed(0)} % of the time to the first token.`;
  by("drawing").srcdoc = found.drawing;
  by("result").hidden = false;
}

if (by("ask")) {
  by("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again, after another was dropped
  });
  for (const name of ["dragover", "dragenter"]) {
    by("drop").addEventListener(name, (event) => { event.preventDefault(); by("drop").classList.add("over"); });
  }
  by("drop").addEventListener("dragleave", () => by("drop").classList.remove("over"));
  by("drop").addEventListener("drop", (event) => {
    event.preventDefault();
    by("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  by("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!picture) return say("Choose a picture first.", true);
    by("go").disabled = true;
    say("Asking ...");
    try {
      await ask();
      say("");
    } catch (error) {
      say(error.message, true);
    } finally {
      by("go").disabled = false;
    }
  });
}
