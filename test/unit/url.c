/*
 * url.c
 *		Checks of api/url.c: which URLs are a server's, and which paths lead below it.
 */
#include "unit.h"

#include "api/url.h"

static const struct
{
	const char *url;
	bool		good;
	bool		is_https;
	bool		is_loopback;
}			urls[] =
{
	{"https://acme.example", true, true, false},
	{"http://acme.example:8080/below", true, false, false},
	{"http://localhost", true, false, true},
	{"http://LOCALHOST:1", true, false, true},
	{"https://[::1]:1", true, true, true},
	{"http://127.0.0.1", true, false, true},
	{"http://127.9.9.9", true, false, true},
	{"http://128.0.0.1", true, false, false},
	{"http://126.255.255.255", true, false, false},
	{"http://127.0.0.1.example", true, false, false},
	{"ftp://acme.example", false},
	{"acme.example", false},
	{"https://", false},
	{"https://user@acme.example", false},
	{"https://:password@acme.example", false},
	{"https://acme.example?a=b", false},
	{"https://acme.example#a", false},
	{"", false},
	{"https://..", false},
	{"https://.example", false},
	{"https://acme..example", false},
	{"https://user:password@acme.example", false},
	{"https://acme.example/a?b#c", false},
};

static const struct
{
	const char *base;
	const char *path;
	const char *joined;			/* NULL: refused */
}			paths[] =
{
	{"https://acme.example", "/a/b", "https://acme.example/a/b"},
	{"https://acme.example/below", "/a?b=c/../d", "https://acme.example/below/a?b=c/../d"},
	{"https://acme.example", "/", "https://acme.example/"},
	{"https://acme.example", "/a%20b", "https://acme.example/a%20b"},
	{"https://acme.example", "/a~b", "https://acme.example/a~b"},
	{"https://acme.example", "/a!b", "https://acme.example/a!b"},
	{"https://acme.example", "/;a/b", NULL},
	{"https://acme.example", "/a/..;b", NULL},
	{"https://acme.example", "/a/...;b", "https://acme.example/a/...;b"},
	{"https://acme.example", "/a;b?/;c", "https://acme.example/a;b?/;c"},
	{"https://user@acme.example", "/a", "https://user@acme.example/a"},
	{"https://user:password@acme.example", "/a", "https://user:password@acme.example/a"},
	{"no URL", "/a", NULL},
	{"https://acme.example", "a", NULL},
	{"https://acme.example", "", NULL},
	{"https://acme.example", "//other.example", NULL},
	{"https://acme.example", "/../a", NULL},
	{"https://acme.example/below", "/a/../../b", NULL},
	{"https://acme.example", "/a b", NULL},
	{"https://acme.example", "/a\x7f", NULL},
	{"https://acme.example", "/a\x80", NULL},
	{"https://acme.example", "/a\\b", NULL},
	{"https://acme.example", "/@other.example", NULL},
	{"https://acme.example", "/a#b", NULL},
	{"https://acme.example", "/a%", NULL},
	{"https://acme.example", "/a%2", NULL},
	{"https://acme.example", "/a%g0", NULL},
	{"https://acme.example", "/a%0g", NULL},
	{"https://acme.example", "/a%2e%2E/b", NULL},
	{"https://acme.example", "/a%2fb", NULL},
	{"https://acme.example", "/a%1f", NULL},
	{"https://acme.example", "/a%7F", NULL},
	{"https://acme.example", "/a%00", NULL},
	{"https://acme.example", "/a%3b", NULL},
};

void
unit_url(void)
{
	for (int i = 0; i < lengthof(urls); i++)
	{
		bool		is_https = false;
		bool		is_loopback = false;
		const char *why;
		bool		good = kapture_url_is_valid(urls[i].url, &is_https, &is_loopback, &why);

		unit_ok(good == urls[i].good && (why == NULL) == good, "is it a server's URL: %s", urls[i].url);
		unit_ok(is_https == urls[i].is_https && is_loopback == urls[i].is_loopback, "how it is reached");
	}
	for (int i = 0; i < lengthof(paths); i++)
	{
		const char *why;
		char	   *joined = kapture_url_join(paths[i].base, paths[i].path, &why);

		unit_is_text(joined, paths[i].joined, psprintf("path \"%s\" below %s", paths[i].path, paths[i].base));
		unit_ok((why == NULL) == (joined != NULL), "if it is refused, there is a reason");
	}
}
