# Fills page.md in: @table@ with the figures, @missed@ with the goals that are missed and
# why (why.tsv), @parts@ with the commits that they were measured of, @plots@ with the
# pictures, @profile@ with profile.txt, @KEY@ and @KEY:SERIES@ with medians,
# @machine:NAME@ with what was measured on.
BEGIN { FS = "\t" }
function number(x,  a) {
	a = x < 0 ? -x : x
	return sprintf(a >= 1000 ? "%.0f" : a >= 100 ? "%.0f" : a >= 10 ? "%.1f" : a >= 1 ? "%.2f" : "%.3f", x)
}
function sign(op) { return op == ">=" ? "≥" : op == "<=" ? "≤" : op }
FILENAME ~ /results.tsv$/ {
	if ($1 == "figure" && !($2 in title)) {
		figures[++nfigures] = $2; op[$2] = $3; goal[$2] = $4; unit[$2] = $5; title[$2] = $6
	}
	if ($1 == "machine") fact[$2] = $3
	if ($1 == "part" && $3 != "") {
		if (!($3 in measured)) measurements[++nmeasurements] = $3
		measured[$3] = measured[$3] (measured[$3] == "" ? "" : ", ") "`" $2 "`"
	}
	next
}
FILENAME ~ /why.tsv$/ { why[$1] = $2; next }
FILENAME ~ /summary.tsv$/ {
	median[$1, $2] = $4; low[$1, $2] = $5; high[$1, $2] = $6; runs[$1, $2] = $3
	if ($2 != "kapture_sync") beside[$1] = beside[$1] (beside[$1] ? ", " : "") $2 " " number($4)
	next
}
function meets(k, m) { return op[k] == ">=" ? m >= goal[k] : op[k] == "<" ? m < goal[k] : m <= goal[k] }
function cpu(k) { return (k ".cpu", "kapture_sync") in median ? number(median[k ".cpu", "kapture_sync"]) : "" }
function met(k) {
	if (goal[k] == "-") return ""
	if (meets(k, median[k, "kapture_sync"]))
		return "yes" (cpu(k) != "" && !meets(k, median[k ".cpu", "kapture_sync"]) ? "; by processor time, **no**" : "")
	return "**no**" (cpu(k) != "" && meets(k, median[k ".cpu", "kapture_sync"]) ? "; by processor time, yes" : "")
}
function table(  i, k, s) {
	print "| what | median | min to max | by processor time | goal | met | beside it |"
	print "|---|---|---|---|---|---|---|"
	for (i = 1; i <= nfigures; i++) {
		k = figures[i]
		if (!((k, "kapture_sync") in median)) {
			# curves and choices are in the pictures and below
			if (goal[k] != "-") printf "| %s | not measured | | | | | |\n", title[k]
			continue
		}
		s = unit[k] == "ratio" || unit[k] == "" ? "" : " " unit[k]
		printf "| %s | %s%s | %s to %s | %s | %s | %s | %s |\n", title[k], number(median[k, "kapture_sync"]), s,
			number(low[k, "kapture_sync"]), number(high[k, "kapture_sync"]), cpu(k),
			goal[k] == "-" ? "" : sign(op[k]) " " goal[k], met(k), beside[k]
	}
}
function missed(  i, k) {
	for (i = 1; i <= nfigures; i++) {
		k = figures[i]
		if (goal[k] != "-" && (k, "kapture_sync") in median && met(k) != "yes")
			printf "* %s: %s\n", title[k], k in why ? why[k] : "not explained yet."
	}
}
function parts(  i) {
	for (i = 1; i <= nmeasurements; i++) printf "* commit %s: %s\n", measurements[i], measured[measurements[i]]
}
function pictures(  i, file, line) {
	for (i = 1; i <= nfigures; i++) {
		file = dir "/" figures[i] ".svg"
		if ((getline line < file) > 0) printf "![%s](%s/%s.svg)\n\n", title[figures[i]], plots, figures[i]
		close(file)
	}
}
function profile(  file, line, any) {
	file = dir "/profile.txt"
	while ((getline line < file) > 0) {
		if (!any++) print "```"
		sub(/[ \t]+$/, "", line)
		print line
	}
	print any ? "```" : "Not sampled."
}
/^@table@$/ { table(); next }
/^@missed@$/ { missed(); next }
/^@parts@$/ { parts(); next }
/^@plots@$/ { pictures(); next }
/^@profile@$/ { profile(); next }
{
	while (match($0, /@[a-z0-9_.]+(:[a-zA-Z0-9_ .,\/-]+)?@/)) {
		name = substr($0, RSTART + 1, RLENGTH - 2)
		split(name, part, ":")
		if (part[1] == "machine") value = part[2] in fact ? fact[part[2]] : "unknown"
		else {
			if (part[2] == "") part[2] = "kapture_sync"
			value = (part[1], part[2]) in median ? number(median[part[1], part[2]]) : "(not measured)"
		}
		$0 = substr($0, 1, RSTART - 1) value substr($0, RSTART + RLENGTH)
	}
	print
}
