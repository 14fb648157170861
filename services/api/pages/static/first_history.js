// The page of a run that has no history yet: with the first row it is loaded again, and then has curves.
document.addEventListener("phema:change", ({ detail }) => {
  if (detail?.run?.history_at > 0) window.location.reload();
});
