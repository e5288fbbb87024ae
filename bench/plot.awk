# A plot for each figure of "pictures" (all: of each), as SVG.  Numbers without X: a row of dots for each
# series, its median as a bar, the goal as a line.  Numbers with X: curves.
BEGIN { FS = "\t"; width = 720; left = 190; right = 40; ink = "#1f2937"; grey = "#9ca3af"; split("#2563eb #d97706 #059669 #dc2626 #7c3aed", colour, " ") }
$1 == "figure" && !($2 in title) { figures[++nfigures] = $2; op[$2] = $3; goal[$2] = $4; unit[$2] = $5; title[$2] = $6 }
$1 == "point" {
	if (!(($2, $3) in n)) { series[$2, ++nseries[$2]] = $3 }
	i = ++n[$2, $3]
	value[$2, $3, i] = $4 + 0
	x[$2, $3, i] = $5
	if ($5 != "") curve[$2] = 1
}
function text(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s); return s }
function label(at, y, s, size, anchor, fill) {
	printf "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", at, y, size, anchor, fill, text(s) >file
}
function line(x1, y1, x2, y2, stroke, w, dash) {
	printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%s\"%s/>\n", x1, y1, x2, y2, stroke, w,
		dash ? " stroke-dasharray=\"4 3\"" : "" >file
}
function nice(range,  p, f) {
	p = exp(int(log(range) / log(10)) * log(10)); if (p > range) p /= 10
	f = range / p
	return p * (f <= 1.2 ? 0.2 : f <= 3 ? 0.5 : f <= 6 ? 1 : 2)
}
function short(v) { return v >= 1000000 ? sprintf("%g M", v / 1000000) : v >= 10000 ? sprintf("%g k", v / 1000) : sprintf("%g", v) }
function open(k, height) {
	file = dir "/" k ".svg"
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" font-family=\"sans-serif\">\n", width, height, width >file
	printf "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height >file
	label(12, 22, title[k], 14, "start", ink)
}
function median_of(k, s,  m, i, j, t, v) {
	m = n[k, s]
	for (i = 1; i <= m; i++) v[i] = value[k, s, i]
	for (i = 2; i <= m; i++) for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
	return m % 2 ? v[(m + 1) / 2] : (v[m / 2] + v[m / 2 + 1]) / 2
}
# Series "X, kapture_sync" and "X, plpgsql" are of one colour each; others in turn.
function colour_of(s, j) { return s ~ /, kapture_sync$/ ? colour[1] : s ~ /, plpgsql$/ ? colour[2] : colour[(j - 1) % 5 + 1] }
function dots(k,  s, i, j, top, height, scale, step, v, y) {
	height = 62 + 34 * nseries[k] + 16
	top = goal[k] == "-" ? 0 : goal[k]
	for (j = 1; j <= nseries[k]; j++) for (i = 1; i <= n[k, series[k, j]]; i++) if (value[k, series[k, j], i] > top) top = value[k, series[k, j], i]
	if (top <= 0) top = 1
	top *= 1.05
	scale = (width - left - right) / top
	open(k, height)
	step = nice(top)
	for (v = 0; v <= top; v += step) {
		line(left + v * scale, 44, left + v * scale, height - 34, "#e5e7eb", 1)
		label(left + v * scale, height - 18, short(v), 11, "middle", grey)
	}
	label(width - right, height - 4, unit[k], 11, "end", grey)
	for (j = 1; j <= nseries[k]; j++) {
		s = series[k, j]
		y = 62 + 34 * (j - 1)
		label(left - 10, y + 4, s, 12, "end", ink)
		v = median_of(k, s)
		printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"14\" fill=\"%s\" fill-opacity=\"0.3\"/>\n", left, y - 7, v * scale, colour_of(s, j) >file
		line(left + v * scale, y - 10, left + v * scale, y + 10, colour_of(s, j), 2.5)
		for (i = 1; i <= n[k, s]; i++)
			printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", left + value[k, s, i] * scale, y, colour_of(s, j) >file
	}
	if (goal[k] != "-") {
		line(left + goal[k] * scale, 40, left + goal[k] * scale, height - 30, "#dc2626", 1.5, 1)
		label(left + goal[k] * scale, 37, "goal " (op[k] == ">=" ? "at least " : "at most ") goal[k], 11, "middle", "#dc2626")
	}
	print "</svg>" >file
	close(file)
}
function curves(k,  s, i, j, topx, topy, sx, sy, height, step, v, path, y0) {
	height = 320; y0 = height - 46
	for (j = 1; j <= nseries[k]; j++) for (i = 1; i <= n[k, series[k, j]]; i++) {
		s = series[k, j]
		if (value[k, s, i] > topy) topy = value[k, s, i]
		if (x[k, s, i] + 0 > topx) topx = x[k, s, i] + 0
	}
	if (topy <= 0) topy = 1
	if (topx <= 0) topx = 1
	topy *= 1.1
	sx = (width - 70 - right) / topx; sy = (y0 - 50) / topy
	open(k, height)
	step = nice(topy)
	for (v = 0; v <= topy; v += step) {
		line(70, y0 - v * sy, width - right, y0 - v * sy, "#e5e7eb", 1)
		label(62, y0 - v * sy + 4, short(v), 11, "end", grey)
	}
	step = nice(topx)
	for (v = 0; v <= topx; v += step) label(70 + v * sx, y0 + 18, short(v), 11, "middle", grey)
	label(width - right, height - 8, unit[k], 11, "end", grey)
	for (j = 1; j <= nseries[k]; j++) {
		s = series[k, j]
		path = ""
		for (i = 1; i <= n[k, s]; i++) path = path sprintf("%s%.1f,%.1f", i > 1 ? " " : "", 70 + x[k, s, i] * sx, y0 - value[k, s, i] * sy)
		printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"/>\n", path, colour[j] >file
		label(70 + 220 * (j - 1), 42, "— " s, 12, "start", colour[j])
	}
	print "</svg>" >file
	close(file)
}
END {
	for (f = 1; f <= nfigures; f++) {
		if (pictures != "all" && index(" " pictures " ", " " figures[f] " ") == 0) continue
		if (curve[figures[f]]) curves(figures[f])
		else if (nseries[figures[f]]) dots(figures[f])
	}
}
