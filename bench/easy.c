/*
 * easy.c
 *		What one connection can do: the Adds of bench/direct.sh, one after the other, by
 *		one handle of libcurl's easy interface, with nothing done to the answers.
 *
 *	easy URL ROWS KEY: prints the calls per second
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char answer[65536];
static size_t answer_len;

static size_t
take(char *data, size_t size, size_t n, void *arg)
{
	if (answer_len + size * n > sizeof(answer))
		return 0;
	memcpy(answer + answer_len, data, size * n);
	answer_len += size * n;
	return size * n;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	CURL	   *easy = curl_easy_init();
	struct curl_slist *headers = NULL;
	char		authorization[256];
	char		body[256];
	int			rows;
	double		started;

	if (argc != 4 || easy == NULL)
		return 2;
	rows = atoi(argv[2]);
	snprintf(authorization, sizeof(authorization), "Authorization: Basic %s", argv[3]);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Accept: application/json");
	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, authorization);
	curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
	started = now();
	for (int i = 1; i <= rows; i++)
	{
		long		status = 0;

		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE,
						 (long) snprintf(body, sizeof(body), "{\"customer_name\": \"Row %d\", \"phone\": \"%010lld\","
										 " \"email_id\": \"c%d@example.com\", \"city\": \"Bangalore\"}",
										 i, 6000000000LL + i, i));
		answer_len = 0;
		if (curl_easy_perform(easy) != CURLE_OK ||
			curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK || status != 200 ||
			memmem(answer, answer_len, "\"success\"", 9) == NULL)
		{
			fprintf(stderr, "row %d: HTTP code %ld, %.*s\n", i, status, (int) answer_len, answer);
			return 1;
		}
	}
	printf("%.1f\n", rows / (now() - started));
	return 0;
}
