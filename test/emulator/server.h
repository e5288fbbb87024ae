/*
 * server.h
 *		HTTP.
 */
#ifndef SERVER_H
#define SERVER_H

typedef struct ServerOptions
{
	int			port;			/* 0: any */
	const char *listen;			/* IPv4 address of this host; NULL: loopback */
	unsigned	threads;
	const char *certificate;	/* PEM text; NULL: no TLS */
	const char *private_key;	/* likewise */
} ServerOptions;

extern int	server_start(const ServerOptions *options);

#endif
