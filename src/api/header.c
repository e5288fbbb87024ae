/*
 * header.c
 *		Is the value of a header likely to be a secret?
 */
#include "postgres.h"

#include "port.h"

#include "api/header.h"

/*
 * Is the value of this header, given as its line or name, likely to be a secret?
 */
bool
kapture_header_is_secret(const char *header)
{
	static const char *const words[] = {"auth", "key", "token", "secret", "cookie", "password", "credential"};
	char	   *name = pnstrdup(header, strcspn(header, ":"));

	for (char *p = name; *p; p++)
		*p = pg_tolower((unsigned char) *p);
	for (int i = 0; i < lengthof(words); i++)
	{
		if (strstr(name, words[i]))
			return true;
	}
	return false;
}
