"""The style of a report's page."""

from llmc.show.colours import COOL, GREY, INK, LINE, MARK

STYLE = f"""
.lim {{ font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: {INK}; }}
.lim h1 {{ font-size: 26px; margin: 0 0 2px; }}
.lim h2 {{ font-size: 17px; margin: 34px 0 8px; }}
.lim p {{ margin: 4px 0 14px; max-width: 72ch; }}
.lim .quiet {{ color: {GREY}; }}
.lim table {{ border-collapse: separate; border-spacing: 2px; }}
.lim .wide {{ overflow-x: auto; }}
.lim .map th {{
  font-weight: 500; font-size: 12px; color: {INK}; padding: 0 4px 4px; text-align: center;
  vertical-align: bottom; background: none; max-width: 84px; overflow-wrap: anywhere;
}}
.lim .map th.layer {{
  text-align: right; color: {GREY}; padding: 0 8px 0 0; vertical-align: middle;
  font-variant-numeric: tabular-nums;
}}
.lim .map td {{
  min-width: 58px; height: 25px; padding: 0 4px; text-align: center; font-size: 12px; border-radius: 3px;
  position: relative; font-variant-numeric: tabular-nums;
}}
.lim .map td:hover {{ outline: 2px solid {INK}; }}
.lim .map td.block, .lim .map th.block {{ font-weight: 700; }}
.lim .map tfoot td {{ color: {MARK}; font-size: 11px; height: auto; white-space: nowrap; }}
.lim .map tfoot td:hover {{ outline: none; }}
.lim .wider::after {{
  content: ""; position: absolute; top: 0; right: 0; border: 5px solid;
  border-color: {MARK} {MARK} transparent transparent; border-top-right-radius: 3px;
}}
.lim td.gone {{ background: #fdeae3; color: {MARK}; font-weight: 700; box-shadow: inset 0 0 0 1.5px {MARK}; }}
.lim td.skipped {{ background: repeating-linear-gradient(135deg, #fff 0 4px, {LINE} 4px 6px); }}
.lim .key {{
  display: flex; flex-wrap: wrap; gap: 6px 22px; align-items: center; margin: 10px 0 0; font-size: 12px;
  color: {GREY};
}}
.lim .key td {{
  min-width: 26px; height: 18px; position: relative; border-radius: 3px; text-align: center; line-height: 1;
}}
.lim .scale {{ position: relative; width: 240px; height: 12px; border-radius: 3px; margin: 0 14px 18px; }}
.lim .scale span {{ position: absolute; top: 14px; transform: translateX(-50%); }}
.lim .plain {{ border-spacing: 0; font-size: 13px; }}
.lim .plain th, .lim .plain td {{
  padding: 3px 14px 3px 0; border-bottom: 1px solid {LINE}; text-align: left; background: none;
  white-space: nowrap;
}}
.lim .plain td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.lim ul.values {{ color: {MARK}; padding-left: 18px; }}
.lim details {{ margin: 8px 0; }}
.lim summary {{ cursor: pointer; font-weight: 600; }}
.lim code, .lim pre {{ font: 12.5px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; }}
.lim .tabs > input {{ position: absolute; opacity: 0; }}
.lim .tabs > label {{
  display: inline-block; padding: 4px 12px; margin: 0 4px 14px 0; border: 1px solid {LINE}; border-radius: 16px;
  cursor: pointer;
}}
.lim .tabs > input:checked + label {{ background: {COOL}; border-color: {COOL}; color: #fff; }}
.lim .tabs > input:focus-visible + label {{ outline: 2px solid {INK}; }}
.lim .tabs > section {{ display: none; }}
"""
