/*
 * buf.h
 *		A growing text buffer and JSON text made by hand.
 */
#ifndef BUF_H
#define BUF_H

#include <stddef.h>
#include <stdint.h>

typedef struct Buf
{
	char	   *data;			/* NULL until something is appended */
	size_t		len;
	size_t		size;
} Buf;

/* Allocation that ends the program instead of failing. */
extern void *xmalloc(size_t size);
extern void *xcalloc(size_t count, size_t size);
extern void *xrealloc(void *old, size_t size);
extern char *xstrdup(const char *text);

extern void buf_reserve(Buf *buf, size_t more);
extern void buf_append(Buf *buf, const void *data, size_t len);
extern void buf_puts(Buf *buf, const char *text);
extern void buf_int(Buf *buf, int64_t number);
extern void buf_printf(Buf *buf, const char *format,...) __attribute__((format(printf, 2, 3)));
extern void buf_json(Buf *buf, const char *text);
extern void buf_json_inner(Buf *buf, const char *text);
extern void buf_free(Buf *buf);
extern void buf_gzip(Buf *buf);

#endif
