
// --- the trace: what the changed weights move on a text --------------------------------------------------------------
function drawTrace(trace) {
  const text = element("p", {id: "trace-text"}), tokens = trace.tokens;
  const scale = scaleOf(tokens.map((token) => token.kl));
  tokens.forEach((token, i) => {
    const span = element("span", {"data-token": i}, token.text === null ? `${token.id} ` : token.text);
    const told = (which) => token[`${which}_top_text`] ? JSON.stringify(token[`${which}_top_text`]) : token[`${which}_top`];
    span.title = `KL ${exact(token.kl)} nats\nbase expects ${told("base")}\ntuned expects ${told("tuned")}`;
    paint(span, scale.place(token.kl));
    if (i && tokens[i - 1].batch !== token.batch) text.append(element("br"));
    text.append(span);
  });
  const lines = Object.entries(trace.summary).map(([key, each]) => `${key} ${exact(each)}`).join(" · ");
  const moved = [...trace.modules].filter((row) => row.own_change !== null).sort((a, b) => b.own_change - a.own_change);
  const says = trace.layers.map((layer) => [layer.layer, layer.change, layer.cosine, (layer.says || []).slice(0, 12)
    .map((token) => token.text === null ? token.id : JSON.stringify(token.text)).join(" ")]);
  $("trace-body").replaceChildren(element("p", {class: "quiet"}, lines),
    element("h3", {}, "the text: each token coloured by how far the predictions after it moved (KL, nats)"), text,
    element("h3", {}, "layers by tokens: how far the stream moved, ‖h′ − h‖ / ‖h‖"),
    element("div", {class: "wide"}, ...streamsOf(trace.stream)),
    element("h3", {}, "modules whose own weights move most"), element("div", {class: "wide"}, tableOf(
      ["name", "own_change", "input_change", "output_change", "cosine"], moved.slice(0, 20).map((row) =>
        [row.name, row.own_change, row.input_change, row.output_change, row.cosine]))),
    element("h3", {}, "what the mean difference of each layer says"), element("div", {class: "wide"},
      tableOf(["layer", "change", "cosine", "tokens"], says)), ...fieldsOf(trace.fields));
}
function streamsOf(stream) { // (L + 1, B, T), or a list of such of several batches
  const depth = (each) => Array.isArray(each) ? 1 + depth(each[0]) : 0;
  const batches = depth(stream) === 4 ? stream : [stream];
  const scale = scaleOf(batches.flat(3).filter((each) => each !== null));
  return batches.flatMap((batch) => batch[0].map((_, row) => {
    const table = element("table", {class: "stream"});
    batch.forEach((layer, number) => {
      const line = element("tr", {}, element("th", {}, String(number)));
      layer[row].forEach((each, position) => {
        if (each === null) return;
        const cell = element("td", {title: `layer ${number}, position ${position}: ${exact(each)}`});
        paint(cell, scale.place(each));
        line.append(cell);
      });
      table.append(line);
    });
    return table;
  }));
}
function fieldsOf(fields) {
  if (!fields || !fields.length) return [];
  const keys = Object.keys(fields[0]).filter((key) => !Array.isArray(fields[0][key]));
  return [element("h3", {}, "by field of the scenes"), tableOf(keys, fields.map((row) => keys.map((key) => row[key])))];
}
drawTrace(data.trace);
