/*
 * buf.c
 *		A growing text buffer and JSON text made by hand.
 *
 * Answers are written straight into such a buffer: building a tree of JSON
 * values for them would cost more than all the rest of a request.
 */
#include "buf.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *
check(void *memory)
{
	if (memory == NULL)
	{
		fputs("kapture-emulator: out of memory\n", stderr);
		abort();
	}
	return memory;
}

void *
xmalloc(size_t size)
{
	return check(malloc(size));
}

void *
xcalloc(size_t count, size_t size)
{
	return check(calloc(count, size));
}

void *
xrealloc(void *old, size_t size)
{
	return check(realloc(old, size));
}

char *
xstrdup(const char *text)
{
	return check(strdup(text));
}

/* Makes room for that many more bytes and a terminating NUL. */
void
buf_reserve(Buf *buf, size_t more)
{
	size_t		need = buf->len + more + 1;

	if (need <= buf->size)
		return;
	if (need < buf->size * 2)
		need = buf->size * 2;
	if (need < 256)
		need = 256;
	buf->data = xrealloc(buf->data, need);
	buf->size = need;
}

void
buf_append(Buf *buf, const void *data, size_t len)
{
	buf_reserve(buf, len);
	memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

void
buf_puts(Buf *buf, const char *text)
{
	buf_append(buf, text, strlen(text));
}

void
buf_int(Buf *buf, int64_t number)
{
	char		digits[24];
	char	   *start = digits + sizeof(digits);
	uint64_t	rest = number < 0 ? -(uint64_t) number : (uint64_t) number;

	do
	{
		*--start = (char) ('0' + rest % 10);
		rest /= 10;
	} while (rest > 0);
	if (number < 0)
		*--start = '-';
	buf_append(buf, start, (size_t) (digits + sizeof(digits) - start));
}

void
buf_printf(Buf *buf, const char *format,...)
{
	va_list		args;
	int			len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	buf_reserve(buf, (size_t) len);
	va_start(args, format);
	vsnprintf(buf->data + buf->len, (size_t) len + 1, format, args);
	va_end(args);
	buf->len += (size_t) len;
}

/* How many bytes the UTF-8 character at this place has; 0 if it is none. */
static size_t
utf8_length(const unsigned char *text)
{
	size_t		len;

	if (text[0] < 0x80)
		return 1;
	else if (text[0] >= 0xc2 && text[0] < 0xe0)
		len = 2;
	else if (text[0] >= 0xe0 && text[0] < 0xf0)
		len = 3;
	else if (text[0] >= 0xf0 && text[0] < 0xf5)
		len = 4;
	else
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
		(text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return len;
}

static bool
is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Appends what must be escaped or is not ASCII; returns its length in text. */
static size_t
append_special(Buf *buf, const unsigned char *text)
{
	size_t		len = utf8_length(text);

	if (len > 1)
		buf_append(buf, text, len);
	else if (len == 0)
	{
		/* logged bodies may hold anything; the log must stay JSON */
		buf_puts(buf, "\\ufffd");
		len = 1;
	}
	else if (*text == '"' || *text == '\\')
	{
		char		escaped[2] = {'\\', (char) *text};

		buf_append(buf, escaped, 2);
	}
	else if (*text == '\n')
		buf_puts(buf, "\\n");
	else if (*text == '\r')
		buf_puts(buf, "\\r");
	else if (*text == '\t')
		buf_puts(buf, "\\t");
	else
		buf_printf(buf, "\\u%04x", *text);
	return len;
}

/* Appends text escaped for the inside of a JSON string. */
void
buf_json_inner(Buf *buf, const char *text)
{
	const unsigned char *next = (const unsigned char *) text;

	for (;;)
	{
		const unsigned char *start = next;

		while (is_plain(*next))
			next++;
		buf_append(buf, start, (size_t) (next - start));
		if (*next == '\0')
			return;
		next += append_special(buf, next);
	}
}

/* Appends text as a JSON string. */
void
buf_json(Buf *buf, const char *text)
{
	buf_append(buf, "\"", 1);
	buf_json_inner(buf, text);
	buf_append(buf, "\"", 1);
}

void
buf_free(Buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

/* The checksum of gzip, bit by bit: what is packed here is short. */
static uint32_t
crc32(const unsigned char *data, size_t len)
{
	uint32_t	crc = 0xFFFFFFFF;

	for (size_t i = 0; i < len; i++)
	{
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
	}
	return ~crc;
}

static void
put_le(Buf *buf, uint32_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
	{
		char		byte = (char) (value >> 8 * i);

		buf_append(buf, &byte, 1);
	}
}

/* Packs what is in the buffer: blocks as they are, which is gzip, too. */
void
buf_gzip(Buf *buf)
{
	static const char header[10] = {'\x1f', '\x8b', 8, 0, 0, 0, 0, 0, 0, 3};
	static const size_t max = 65535;
	Buf			packed = {0};
	size_t		done = 0;

	buf_append(&packed, header, sizeof(header));
	do
	{
		size_t		len = buf->len - done < max ? buf->len - done : max;

		put_le(&packed, done + len == buf->len, 1);
		put_le(&packed, (uint32_t) len, 2);
		put_le(&packed, (uint32_t) ~len, 2);
		buf_append(&packed, buf->data + done, len);
		done += len;
	} while (done < buf->len);
	put_le(&packed, crc32((const unsigned char *) buf->data, buf->len), 4);
	put_le(&packed, (uint32_t) buf->len, 4);
	buf_free(buf);
	*buf = packed;
}
