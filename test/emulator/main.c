/*
 * main.c
 *		Starts the emulator of the Kapture customer API; see README.md.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "clock.h"
#include "server.h"
#include "store.h"

/* kapdemo:kap123, the example of the vendor's document */
#define DEFAULT_KEY		"a2FwZGVtbzprYXAxMjM="

static const char usage[] =
"usage: kapture-emulator [option]...\n"
"  --port N            listen on this port (default 0: any free port)\n"
"  --listen ADDRESS    of this IPv4 address (default 127.0.0.1; 0.0.0.0: all)\n"
"  --port-file FILE    write the port there once it listens\n"
"  --threads N         serve from so many threads (default 2)\n"
"  --tls-cert FILE     speak TLS with this certificate (PEM)\n"
"  --tls-key FILE      and this private key (PEM)\n"
"  --auth-key KEY      key of all APIs (default " DEFAULT_KEY ")\n"
"  --add-key, --update-key, --get-key, --pull-key KEY\n"
"                      key of one API\n"
"  --add-array, --update-array\n"
"                      want the body of that API wrapped in an array\n"
"  --pull-limit-hours N\n"
"                      refuse to pull more at once (default 0: no limit)\n"
"  --pull-limit-rows N leave out what is beyond so many customers of an answer\n"
"                      (default 0: no limit)\n"
"  --timezone NAME     the account's time zone (default Asia/Kolkata)\n"
"  --empty             start without the samples of the vendor's document\n";

enum
{
	OPTION_PORT = 256, OPTION_LISTEN, OPTION_PORT_FILE, OPTION_THREADS, OPTION_TLS_CERT, OPTION_TLS_KEY, OPTION_AUTH_KEY,
	OPTION_KEY, OPTION_ADD_ARRAY = OPTION_KEY + N_APIS, OPTION_UPDATE_ARRAY, OPTION_PULL_LIMIT, OPTION_PULL_ROWS,
	OPTION_TIMEZONE, OPTION_EMPTY, OPTION_HELP
};

static const struct option options[] = {
	{"port", required_argument, NULL, OPTION_PORT},
	{"listen", required_argument, NULL, OPTION_LISTEN},
	{"port-file", required_argument, NULL, OPTION_PORT_FILE},
	{"threads", required_argument, NULL, OPTION_THREADS},
	{"tls-cert", required_argument, NULL, OPTION_TLS_CERT},
	{"tls-key", required_argument, NULL, OPTION_TLS_KEY},
	{"auth-key", required_argument, NULL, OPTION_AUTH_KEY},
	{"add-key", required_argument, NULL, OPTION_KEY + API_ADD},
	{"update-key", required_argument, NULL, OPTION_KEY + API_UPDATE},
	{"get-key", required_argument, NULL, OPTION_KEY + API_GET},
	{"pull-key", required_argument, NULL, OPTION_KEY + API_PULL},
	{"add-array", no_argument, NULL, OPTION_ADD_ARRAY},
	{"update-array", no_argument, NULL, OPTION_UPDATE_ARRAY},
	{"pull-limit-hours", required_argument, NULL, OPTION_PULL_LIMIT},
	{"pull-limit-rows", required_argument, NULL, OPTION_PULL_ROWS},
	{"timezone", required_argument, NULL, OPTION_TIMEZONE},
	{"empty", no_argument, NULL, OPTION_EMPTY},
	{"help", no_argument, NULL, OPTION_HELP},
	{NULL, 0, NULL, 0}
};

static void
fail(const char *what, const char *which)
{
	fprintf(stderr, "kapture-emulator: %s %s\n", what, which);
	exit(1);
}

static const char *
read_file(const char *name)
{
	FILE	   *file = fopen(name, "r");
	static const size_t max = 1 << 16;
	char	   *text = xcalloc(1, max);

	if (file == NULL || fread(text, 1, max - 1, file) == 0)
		fail("cannot read", name);
	fclose(file);
	return text;
}

/* Whoever waits for the file must never see it half written. */
static void
write_port(const char *name, int port)
{
	char	   *temporary = xcalloc(1, strlen(name) + 5);
	FILE	   *file;

	sprintf(temporary, "%s.new", name);
	file = fopen(temporary, "w");
	if (file == NULL || fprintf(file, "%d\n", port) < 0 || fclose(file) != 0 || rename(temporary, name) != 0)
		fail("cannot write", name);
	free(temporary);
}

static void
set_all_keys(const char *key)
{
	for (int i = 0; i < N_APIS; i++)
		api_set_key((Api) i, key);
}

int
main(int argc, char **argv)
{
	ServerOptions server = {.threads = 2};
	const char *port_file = NULL;
	const char *zone = "Asia/Kolkata";
	bool		empty = false;
	int			option;
	int			port;

	set_all_keys(DEFAULT_KEY);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (option)
		{
			case OPTION_PORT:
				server.port = atoi(optarg);
				break;
			case OPTION_LISTEN:
				server.listen = optarg;
				break;
			case OPTION_PORT_FILE:
				port_file = optarg;
				break;
			case OPTION_THREADS:
				server.threads = (unsigned) atoi(optarg);
				break;
			case OPTION_TLS_CERT:
				server.certificate = read_file(optarg);
				break;
			case OPTION_TLS_KEY:
				server.private_key = read_file(optarg);
				break;
			case OPTION_AUTH_KEY:
				set_all_keys(optarg);
				break;
			case OPTION_KEY + API_ADD:
			case OPTION_KEY + API_UPDATE:
			case OPTION_KEY + API_GET:
			case OPTION_KEY + API_PULL:
				api_set_key((Api) (option - OPTION_KEY), optarg);
				break;
			case OPTION_ADD_ARRAY:
				api_set_array(API_ADD, true);
				break;
			case OPTION_UPDATE_ARRAY:
				api_set_array(API_UPDATE, true);
				break;
			case OPTION_PULL_LIMIT:
				api_set_pull_limit(atoi(optarg));
				break;
			case OPTION_PULL_ROWS:
				api_set_pull_rows(atoi(optarg));
				break;
			case OPTION_TIMEZONE:
				zone = optarg;
				break;
			case OPTION_EMPTY:
				empty = true;
				break;
			case OPTION_HELP:
				fputs(usage, stdout);
				return 0;
			default:
				fputs(usage, stderr);
				return 2;
		}
	}
	if (optind < argc || (server.certificate == NULL) != (server.private_key == NULL))
	{
		fputs(usage, stderr);
		return 2;
	}

	signal(SIGPIPE, SIG_IGN);
	clock_set_zone(zone);
	store_init(empty);
	port = server_start(&server);
	if (port < 0)
		fail("cannot listen;", "is the port taken, or the address not this host's?");
	if (port_file)
		write_port(port_file, port);
	printf("kapture-emulator: listening on %s://%s:%d\n", server.certificate ? "https" : "http",
		   server.listen ? server.listen : "127.0.0.1", port);
	fflush(stdout);
	for (;;)
		pause();
}
