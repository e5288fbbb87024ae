/*
 * url.c
 *		Is a text the URL of a server, or a path below it?
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <curl/curl.h>

#include "api/url.h"

static void
url_fail_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("libcurl could not parse a URL.")));
}

/*
 * Did a step of parsing succeed?  A step without memory fails, too, which says nothing about the
 * URL: the caller frees what it has, and raises an error.
 */
static bool
url_ok(CURLUcode code, bool *no_memory)
{
	if (code == CURLUE_OUT_OF_MEMORY)
		*no_memory = true;
	return code == CURLUE_OK;
}

/*
 * Tells whether a URL can be a server's: http or https, a host, nothing but a
 * path behind it.  If not, *why says so.  (Source: libcurl's URL API.)
 */
bool
kapture_url_is_valid(const char *url, bool *is_https, bool *is_loopback, const char **why)
{
	CURLU	   *parsed = curl_url();
	char	   *scheme = NULL;
	char	   *host = NULL;
	char	   *extra = NULL;
	bool		no_memory = false;

	*why = NULL;
	if (parsed == NULL)
		url_fail_memory();
	if (!url_ok(curl_url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME), &no_memory) ||
		!url_ok(curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0), &no_memory) ||
		!url_ok(curl_url_get(parsed, CURLUPART_HOST, &host, 0), &no_memory) || host[0] == '\0')
		*why = "it is not a URL with a scheme and a host";
	else if (host[0] == '.' || strstr(host, "..") != NULL)
		*why = "its host is no name, but dots that stand for one";
	else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
		*why = "its scheme is neither http nor https";
	else if (url_ok(curl_url_get(parsed, CURLUPART_USER, &extra, 0), &no_memory) ||
			 url_ok(curl_url_get(parsed, CURLUPART_PASSWORD, &extra, 0), &no_memory))
		*why = "it contains a user name or password";
	/* not every version of libcurl reports those that are empty */
	else if (strpbrk(url, "?#") != NULL)
		*why = "it contains a query or a fragment";
	else
	{
		unsigned char addr[4];

		*is_https = strcmp(scheme, "https") == 0;
		*is_loopback = pg_strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
			(inet_pton(AF_INET, host, addr) == 1 && addr[0] == 127);
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(extra);
	curl_url_cleanup(parsed);
	if (no_memory)
		url_fail_memory();
	return *why == NULL;
}

/* The byte that two hexadecimal digits stand for, -1: they are none. */
static int
url_hex_byte(const char *digits)
{
	char		both[3] = {digits[0], digits[0] ? digits[1] : '\0', '\0'};

	if (!isxdigit((unsigned char) both[0]) || !isxdigit((unsigned char) both[1]))
		return -1;
	return (int) strtol(both, NULL, 16);
}

/*
 * Why a text is no plain path; NULL if it is one.  A path that a server or a proxy
 * may read as another than it looks like is refused, too, escaped or not.
 */
static const char *
url_path_problem(const char *path)
{
	if (path[0] != '/')
		return "it does not begin with \"/\"";
	if (path[1] == '/')
		return "it begins with \"//\", behind which a host is named";
	for (const char *p = path; *p != '\0' && *p != '?'; p++)
	{
		const char *part = p + 1;

		if (*p == '/' && part[strspn(part, ".")] == ';' && strspn(part, ".") <= 2)
			return "it has a part that is nothing but parameters, which some servers read as \".\" or \"..\"";
	}
	for (const char *p = path; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= 0x20 || (unsigned char) *p >= 0x7F)
			return "it has spaces, control characters or characters outside of ASCII";
		if (strchr("\\@#", *p) != NULL)
			return "it has one of the characters \"\\\", \"@\" and \"#\"";
		if (*p == '%')
		{
			int			byte = url_hex_byte(p + 1);

			if (byte < 0)
				return "it has a \"%\" without two hexadecimal digits";
			if (byte < 0x20 || byte == 0x7F || strchr("./\\@#?%:;", byte) != NULL)
				return "it has an escaped control character or one of the characters ./\\@#?%:; escaped";
		}
	}
	return NULL;
}

/* Do two URLs have the same text in this part, or both none? */
static bool
url_same_part(CURLU *a, CURLU *b, CURLUPart part, bool *no_memory)
{
	char	   *of_a = NULL;
	char	   *of_b = NULL;
	bool		a_has = url_ok(curl_url_get(a, part, &of_a, CURLU_DEFAULT_PORT), no_memory);
	bool		b_has = url_ok(curl_url_get(b, part, &of_b, CURLU_DEFAULT_PORT), no_memory);
	bool		same = a_has == b_has && (!a_has || strcmp(of_a, of_b) == 0);

	curl_free(of_a);
	curl_free(of_b);
	return same;
}

/* Does libcurl read the joined URL as the base's host, with this path below its own? */
static bool
url_stays_below(CURLU *base, CURLU *joined, const char *path, bool *no_memory)
{
	static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_HOST, CURLUPART_PORT};
	char	   *above = NULL;
	char	   *whole = NULL;
	size_t		len = strcspn(path, "?");
	size_t		above_len;
	bool		same;

	for (int i = 0; i < lengthof(parts); i++)
	{
		if (!url_same_part(base, joined, parts[i], no_memory))
			return false;
	}
	same = url_ok(curl_url_get(base, CURLUPART_PATH, &above, 0), no_memory) &&
		url_ok(curl_url_get(joined, CURLUPART_PATH, &whole, 0), no_memory);
	if (same)
	{
		/* libcurl gives a URL without a path the path "/" */
		above_len = strcmp(above, "/") == 0 ? 0 : strlen(above);
		same = strncmp(whole, above, above_len) == 0 && strlen(whole) == above_len + len &&
			strncmp(whole + above_len, path, len) == 0;
	}
	curl_free(above);
	curl_free(whole);
	return same;
}

/*
 * kapture_url_join
 *		Returns the URL of a path below a server's URL, palloc'ed; NULL if the
 *		path cannot be used, and *why says so.
 *
 * Whatever the path is, the request goes to the server's scheme, host and port: a
 * user of the server need not be the one who decides where it is.
 */
char *
kapture_url_join(const char *base, const char *path, const char **why)
{
	CURLU	   *of_base;
	CURLU	   *of_both;
	char	   *both;
	bool		no_memory;

	*why = url_path_problem(path);
	if (*why != NULL)
		return NULL;
	both = psprintf("%s%s", base, path);
	of_base = curl_url();
	of_both = curl_url();
	no_memory = of_base == NULL || of_both == NULL;
	if (no_memory ||
		!url_ok(curl_url_set(of_base, CURLUPART_URL, base, 0), &no_memory) ||
		!url_ok(curl_url_set(of_both, CURLUPART_URL, both, 0), &no_memory) ||
		!url_stays_below(of_base, of_both, path, &no_memory))
		*why = "it leads out of the server's URL, or has \".\" or \"..\" as a part";
	curl_url_cleanup(of_base);
	curl_url_cleanup(of_both);
	if (no_memory)
		url_fail_memory();
	return *why == NULL ? both : NULL;
}
