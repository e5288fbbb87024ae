# From results.tsv to one line for each figure and series: key, series, number
# of runs, median, minimum, maximum.
BEGIN { FS = OFS = "\t" }
$1 == "point" && $5 == "" {
	k = $2 OFS $3
	if (!(k in n)) order[++norder] = k
	v[k, ++n[k]] = $4 + 0
}
END {
	for (o = 1; o <= norder; o++) {
		k = order[o]
		for (i = 2; i <= n[k]; i++)		# few values: insertion sort
			for (j = i; j > 1 && v[k, j - 1] > v[k, j]; j--) {
				t = v[k, j]; v[k, j] = v[k, j - 1]; v[k, j - 1] = t
			}
		m = n[k]
		median = m % 2 ? v[k, (m + 1) / 2] : (v[k, m / 2] + v[k, m / 2 + 1]) / 2
		print k, m, median, v[k, 1], v[k, m]
	}
}
