/*
 * url.c
 *		Is a text the URL of a server?
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include "api/url.h"

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

	*why = NULL;
	if (parsed == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	if (curl_url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK || host[0] == '\0')
		*why = "it is not a URL with a scheme and a host";
	else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
		*why = "its scheme is neither http nor https";
	else if (curl_url_get(parsed, CURLUPART_USER, &extra, 0) == CURLUE_OK ||
			 curl_url_get(parsed, CURLUPART_PASSWORD, &extra, 0) == CURLUE_OK)
		*why = "it contains a user name or password";
	else if (curl_url_get(parsed, CURLUPART_QUERY, &extra, 0) == CURLUE_OK ||
			 curl_url_get(parsed, CURLUPART_FRAGMENT, &extra, 0) == CURLUE_OK)
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
	return *why == NULL;
}
