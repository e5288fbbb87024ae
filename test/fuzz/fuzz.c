/*
 * fuzz.c
 *		libFuzzer on everything that reads what Kapture answers.
 *
 * Linked with the extension's own objects into a library that a single-user
 * server loads; SELECT kapture_fuzz(arguments of libFuzzer) runs it there, since
 * the code under test needs a real backend: memory contexts, jsonb, catalogs.
 *
 * An input is three letters and the answer:
 *
 *	a, u, g, p	the body of an answer to Add, Update, Get, Pull
 *	t			text that every typed column reads
 *	h			bytes of HTTP, sent over a socket
 *
 *	0 to 9		the HTTP code, see fuzz_codes
 *	u, l, j, s	the database's encoding: UTF8, LATIN1, EUC_JP, SQL_ASCII
 *
 * What must hold, besides that AddressSanitizer has nothing to say: no error is
 * raised; the ways to read an answer agree; all that is handed on can be stored
 * and shown.
 */
#define _GNU_SOURCE
#include "postgres.h"

#include <signal.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/memnodes.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "api/cleanse.h"
#include "api/error.h"
#include "api/columns.h"
#include "api/http.h"
#include "api/reply.h"
#include "api/option.h"

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*test_one) (const uint8 *data, size_t size));
extern MemoryContext fuzz_context_create(MemoryContext parent, const char *name,
										 Size min, Size initial, Size max);

PG_FUNCTION_INFO_V1(kapture_fuzz);

#define FUZZ_MAX_INPUT	65536

static const int fuzz_codes[10] = {500, 301, 200, 201, 400, 429, 401, 404, 503, 422};

static MemoryContext fuzz_context;
static MemoryContext fuzz_long_context;
static KaptureReader *fuzz_readers[2];
static TupleDesc fuzz_descs[2];
static KaptureServer fuzz_server;
static int	fuzz_listener = -1;

#define FUZZ_ASSERT(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "does not hold: %s (line %d)\n", #condition, __LINE__); \
			abort(); \
		} \
	} while (0)

/* ------------------------------------------------------------------------
 * Memory: each chunk is a malloc of its own, so that AddressSanitizer knows
 * where it ends and when it is gone.  The extension's contexts become such by
 * a macro on the command line.
 * ------------------------------------------------------------------------
 */

typedef struct FuzzChunk
{
	struct FuzzChunk *prev;
	struct FuzzChunk *next;
	Size		size;
	MemoryContext context;		/* where PostgreSQL looks for it */
} FuzzChunk;

typedef struct FuzzContext
{
	MemoryContextData header;
	FuzzChunk	head;
} FuzzContext;

#define FUZZ_CHUNK(pointer)	((FuzzChunk *) (pointer) - 1)

static void *
fuzz_alloc(MemoryContext context, Size size)
{
	FuzzContext *set = (FuzzContext *) context;
	FuzzChunk  *chunk = malloc(sizeof(FuzzChunk) + size);

	if (chunk == NULL)
		return NULL;
	chunk->size = size;
	chunk->context = context;
	chunk->prev = &set->head;
	chunk->next = set->head.next;
	chunk->next->prev = chunk;
	set->head.next = chunk;
	return chunk + 1;
}

static void
fuzz_free(MemoryContext context, void *pointer)
{
	FuzzChunk  *chunk = FUZZ_CHUNK(pointer);

	chunk->prev->next = chunk->next;
	chunk->next->prev = chunk->prev;
	free(chunk);
}

static void *
fuzz_realloc(MemoryContext context, void *pointer, Size size)
{
	void	   *result = fuzz_alloc(context, size);

	if (result == NULL)
		return NULL;
	memcpy(result, pointer, Min(size, FUZZ_CHUNK(pointer)->size));
	fuzz_free(context, pointer);
	return result;
}

static void
fuzz_reset(MemoryContext context)
{
	FuzzContext *set = (FuzzContext *) context;

	while (set->head.next != &set->head)
		fuzz_free(context, set->head.next + 1);
}

static void
fuzz_delete(MemoryContext context)
{
	fuzz_reset(context);
	free(context);
}

static Size
fuzz_chunk_space(MemoryContext context, void *pointer)
{
	return sizeof(FuzzChunk) + FUZZ_CHUNK(pointer)->size;
}

static bool
fuzz_is_empty(MemoryContext context)
{
	FuzzContext *set = (FuzzContext *) context;

	return set->head.next == &set->head;
}

static void
fuzz_stats(MemoryContext context, MemoryStatsPrintFunc printfunc, void *arg,
		   MemoryContextCounters *totals, bool to_stderr)
{
}

static const MemoryContextMethods fuzz_methods = {
	.alloc = fuzz_alloc,
	.free_p = fuzz_free,
	.realloc = fuzz_realloc,
	.reset = fuzz_reset,
	.delete_context = fuzz_delete,
	.get_chunk_space = fuzz_chunk_space,
	.is_empty = fuzz_is_empty,
	.stats = fuzz_stats
};

MemoryContext
fuzz_context_create(MemoryContext parent, const char *name, Size min, Size initial, Size max)
{
	FuzzContext *set = calloc(1, sizeof(FuzzContext));

	if (set == NULL)
		abort();
	set->head.prev = set->head.next = &set->head;
	MemoryContextCreate((MemoryContext) set, T_AllocSetContext, &fuzz_methods, parent, name);
	return (MemoryContext) set;
}

/* ------------------------------------------------------------------------
 * What must hold
 * ------------------------------------------------------------------------
 */

/* Text that the database may keep, on one line if so wanted. */
static void
fuzz_check_text(const char *text, int len, bool one_line)
{
	FUZZ_ASSERT(pg_verify_mbstr(GetDatabaseEncoding(), text, len, true));
	FUZZ_ASSERT(memchr(text, '\0', len) == NULL);
	for (int i = 0; one_line && i < len; i++)
		FUZZ_ASSERT((unsigned char) text[i] >= 0x20);
}

static char *
fuzz_jsonb_text(Jsonb *jsonb)
{
	char	   *text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));

	fuzz_check_text(text, strlen(text), false);
	return text;
}

/* A row that was read has values that their types can show. */
static void
fuzz_check_row(TupleDesc desc, Datum *values, bool *isnull)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			output;
		bool		varlena;
		char	   *text;

		if (isnull[i])
			continue;
		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
		text = OidOutputFunctionCall(output, values[i]);
		fuzz_check_text(text, strlen(text), false);
	}
	(void) heap_form_tuple(desc, values, isnull);
}

/* Reads a value as customer and as contact, if it is an object. */
static void
fuzz_read(Jsonb *jsonb)
{
	JsonbValue	value;
	JsonbContainer *contacts;

	value.type = jbvBinary;
	value.val.binary.data = &jsonb->root;
	value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	if (!JB_ROOT_IS_OBJECT(jsonb))
	{
		FUZZ_ASSERT(!kapture_is_object(&value));
		return;
	}
	FUZZ_ASSERT(kapture_is_object(&value));
	for (int kind = 0; kind < 2; kind++)
	{
		int			natts = fuzz_descs[kind]->natts;
		Datum	   *values = palloc(sizeof(Datum) * natts);
		bool	   *isnull = palloc(sizeof(bool) * natts);
		int64		id;

		kapture_reader_read(fuzz_readers[kind], &value, values, isnull);
		fuzz_check_row(fuzz_descs[kind], values, isnull);
		if (kind == KAPTURE_ROW_CUSTOMER)
		{
			FUZZ_ASSERT(kapture_customer_id(&value, &id) == !isnull[0]);
			FUZZ_ASSERT(isnull[0] || id == DatumGetInt64(values[0]));
		}
	}
	contacts = kapture_customer_contacts(&value);
	FUZZ_ASSERT(contacts == NULL || JsonContainerIsArray(contacts));
}

static bool
fuzz_wants_all(void *arg, const char *key, int len)
{
	return true;
}

/* A customer of whom all parts are wanted is the whole one; one of whom some are can be read. */
static void
fuzz_parts(const KaptureList *list, int n)
{
	FUZZ_ASSERT(strcmp(fuzz_jsonb_text(kapture_message_customer(list, n)),
					   fuzz_jsonb_text(kapture_message_customer_parts(list, n, fuzz_wants_all, NULL))) == 0);
	fuzz_read(kapture_message_customer_parts(list, n, kapture_message_wants_match, NULL));
}

/* The customers of a list are those of the answer as a whole. */
static void
fuzz_compare(Jsonb *whole, const KaptureList *list)
{
	JsonbValue	customers;
	bool		has = kapture_message_customers(whole, &customers);

	for (int i = 0; i < list->ncustomers; i++)
	{
		fuzz_read(kapture_message_customer(list, i));
		fuzz_parts(list, i);
	}
	if (!has)
	{
		/* a key that came twice may have held some the first time */
		return;
	}
	if (list->ncustomers > 0 && JsonContainerIsArray(customers.val.binary.data) &&
		JsonContainerSize(customers.val.binary.data) == list->ncustomers)
	{
		for (int i = 0; i < list->ncustomers; i++)
		{
			JsonbValue *element = getIthJsonbValueFromContainer(customers.val.binary.data, i);

			FUZZ_ASSERT(strcmp(fuzz_jsonb_text(JsonbValueToJsonb(element)),
							   fuzz_jsonb_text(kapture_message_customer(list, i))) == 0);
		}
	}
}

/* The error about a bad answer is one that can be shown. */
static void
fuzz_complain(KaptureApi api, int status, const char *body, size_t len,
			  const char *why, const KaptureReply *reply)
{
	KaptureHttpAnswer answer = {KAPTURE_HTTP_ANSWERED};
	volatile bool raised = false;

	answer.status = status;
	answer.body = body;
	answer.body_len = len;
	PG_TRY();
	{
		if (why != NULL)
			kapture_complaint_not_json(&fuzz_server, api, &answer, why);
		kapture_complaint_failed(&fuzz_server, api, status, reply);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(fuzz_context);
		error = CopyErrorData();
		FlushErrorState();
		raised = true;
		FUZZ_ASSERT(error->sqlerrcode != ERRCODE_INTERNAL_ERROR);
		fuzz_check_text(error->message, strlen(error->message), true);
		fuzz_check_text(error->detail, strlen(error->detail), true);
		FreeErrorData(error);
	}
	PG_END_TRY();
	FUZZ_ASSERT(raised);
}

typedef struct FuzzKeys
{
	JsonLexContext *lex;
	int			seen[7];		/* how often, see fuzz_key() */
	bool		twice;
} FuzzKeys;

KAPTURE_JSON_ACTION
fuzz_key(void *arg, char *name, bool isnull)
{
	static const char *const names[] = {
		"kapturecustomerid", "enquiry", "status", "message", "customerdetails", "error"
	};
	FuzzKeys   *keys = arg;
	char	   *to = name;

	for (const char *from = name; *from != '\0'; from++)
	{
		if (*from != ' ' && *from != '_')
			*to++ = pg_ascii_tolower((unsigned char) *from);
	}
	*to = '\0';
	if (keys->lex->lex_level == 1)
	{
		/* the last is that of an object's own objects */
		keys->seen[6] = 0;
		for (int i = 0; i < lengthof(names); i++)
		{
			if (strcmp(name, names[i]) == 0 && ++keys->seen[i] > 1)
				keys->twice = true;
		}
	}
	else if (keys->lex->lex_level == 2 && strcmp(name, names[0]) == 0 && ++keys->seen[6] > 1)
		keys->twice = true;
	KAPTURE_JSON_RETURN;
}

/* Does a key that matters come twice?  Which of them counts is nobody's promise. */
static bool
fuzz_has_key_twice(char *json)
{
	FuzzKeys	keys = {0};
	JsonSemAction actions = {.semstate = &keys, .object_field_start = fuzz_key};

	keys.lex = makeJsonLexContextCstringLen(NULL, json, strlen(json), GetDatabaseEncoding(), true);
	FUZZ_ASSERT(pg_parse_json(keys.lex, &actions) == JSON_SUCCESS);
	return keys.twice;
}

/*
 * What the parser is listened to for in an answer to Add or Update is what the
 * answer has as jsonb.  "list" is NULL and "why" says so if it cannot be such.
 */
static void
fuzz_written(KaptureApi api, int status, const char *body, size_t len,
			 const KaptureList *list, const char *why, const KaptureReply *reply)
{
	KaptureReply written;
	char	   *written_why = NULL;

	kapture_message_judge_written(api, status, body, len, NULL, &written, &written_why);
	fuzz_check_text(written.message, strlen(written.message), true);
	FUZZ_ASSERT(written.verdict >= KAPTURE_SUCCESS && written.verdict <= KAPTURE_BROKEN);
	FUZZ_ASSERT(written.verdict != KAPTURE_NOT_FOUND);
	FUZZ_ASSERT(written.customer_id >= 0 && written.contact_id == 0);
	/* nothing conflicts with itself */
	FUZZ_ASSERT(kapture_identity_conflict(&written.repeated, &written.repeated) == NULL);
	(void) kapture_identity_conflict(&reply->repeated, &written.repeated);
	if (written_why != NULL)
	{
		fuzz_check_text(written_why, strlen(written_why), true);
		FUZZ_ASSERT(why != NULL && written.verdict != KAPTURE_SUCCESS);
	}
	/* what is too large for jsonb need not be so here */
	if ((written_why == NULL) != (why == NULL) ||
		(list != NULL && fuzz_has_key_twice(list->text)))
		return;
	FUZZ_ASSERT(written.verdict == reply->verdict);
	FUZZ_ASSERT(written.customer_id == reply->customer_id);
	FUZZ_ASSERT(strcmp(written.message, reply->message) == 0);
	FUZZ_ASSERT(written.named_id == reply->named_id && written.is_known == reply->is_known);
}

static void
fuzz_answer(KaptureApi api, int status, const char *body, size_t len)
{
	MemoryContext scratch = fuzz_context_create(CurrentMemoryContext, "scratch", 0, 0, 0);
	char	   *why = NULL;
	char	   *split_why = NULL;
	Jsonb	   *whole = kapture_message_parse(body, len, NULL, &why);
	KaptureList *list = kapture_message_split(body, len, scratch, &split_why);
	KaptureReply reply;
	KaptureReply split_reply;

	FUZZ_ASSERT((whole == NULL) == (list == NULL));
	FUZZ_ASSERT((whole == NULL) == (why != NULL));
	kapture_message_judge(api, status, whole, NULL, &reply);
	fuzz_check_text(reply.message, strlen(reply.message), true);
	FUZZ_ASSERT(reply.verdict >= KAPTURE_SUCCESS && reply.verdict <= KAPTURE_BROKEN);
	FUZZ_ASSERT(reply.customer_id >= 0);
	if (whole == NULL)
	{
		fuzz_check_text(why, strlen(why), true);
		FUZZ_ASSERT(strcmp(why, split_why) == 0);
	}
	else
	{
		KaptureMatch phone;
		KaptureMatch email;

		(void) fuzz_jsonb_text(whole);
		if (!kapture_cleanse_is_needed_for_jsonb(body, len))
		{
			Jsonb	   *same = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(body, len))));

			FUZZ_ASSERT(VARSIZE(whole) == VARSIZE(same) && memcmp(whole, same, VARSIZE(same)) == 0);
		}
		kapture_message_match_found(whole, "9874563725", "a@example.com", &phone, &email);
		FUZZ_ASSERT(list->naltered <= list->ncustomers);
		(void) fuzz_jsonb_text(list->rest);
		fuzz_read(whole);
		fuzz_compare(whole, list);
		kapture_message_judge(api, status, list->rest, NULL, &split_reply);
		if (api == KAPTURE_API_PULL)
			FUZZ_ASSERT(reply.verdict == split_reply.verdict);
	}
	if (api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE)
		fuzz_written(api, status, body, len, list, why, &reply);
	if (reply.verdict != KAPTURE_SUCCESS)
		fuzz_complain(api, status, body, len, why, &reply);
	MemoryContextDelete(scratch);
}

/* Text, and text as a number, in every column. */
static void
fuzz_values(const char *body, size_t len)
{
	static const char *const keys[] = {
		"id", "leadId", "generationDate", "lastModificationTime", "latitude", "maxCreditAmt",
		"deleted", "isActive", "name", "remarks", "companyPhone", "age", "contacts"
	};
	StringInfoData json;
	char	   *why;
	char	   *text;
	Jsonb	   *jsonb;

	if (memchr(body, '\0', len) != NULL || !pg_verify_mbstr(PG_UTF8, body, len, true))
		return;
	text = pnstrdup(body, len);
	initStringInfo(&json);
	for (int i = 0; i < lengthof(keys); i++)
	{
		appendStringInfo(&json, "%c\"%s\": ", i == 0 ? '{' : ',', keys[i]);
		escape_json(&json, text);
	}
	appendStringInfoChar(&json, '}');
	jsonb = kapture_message_parse(json.data, json.len, NULL, &why);
	if (jsonb != NULL)
		fuzz_read(jsonb);
}

/* ------------------------------------------------------------------------
 * HTTP
 * ------------------------------------------------------------------------
 */

static void
fuzz_listen(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	len = sizeof(address);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fuzz_listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fuzz_listener < 0 ||
		bind(fuzz_listener, (struct sockaddr *) &address, len) != 0 ||
		listen(fuzz_listener, 16) != 0 ||
		getsockname(fuzz_listener, (struct sockaddr *) &address, &len) != 0)
		elog(ERROR, "could not listen: %m");
	for (int api = 0; api < KAPTURE_API_COUNT; api++)
	{
		fuzz_server.url[api] = psprintf("http://127.0.0.1:%d/", ntohs(address.sin_port));
		fuzz_server.auth_key[api] = pstrdup("c2VjcmV0OnNlY3JldA==");
	}
	fuzz_server.name = pstrdup("fuzz");
	fuzz_server.timezone = pstrdup("Asia/Kolkata");
	fuzz_server.connect_timeout = 10000;
	fuzz_server.timeout = 10000;
	fuzz_server.max_connections = 1;
	fuzz_server.max_response_size = 16384;
}

/* Lets the server answer with these bytes, and reads what came. */
static void
fuzz_http(const char *bytes, size_t len)
{
	static const char request_body[] = "{}";
	KaptureHttpRequest *request;
	const KaptureHttpAnswer *answer;
	TimestampTz when;
	char		asked[1024];
	bool		said = false;
	int			fd = -1;

	request = kapture_http_start(&fuzz_server, KAPTURE_API_PULL, request_body, 2, NULL, &when);
	FUZZ_ASSERT(request != NULL);
	while (!kapture_http_wait(0, 0))
	{
		if (fd < 0)
			fd = accept4(fuzz_listener, NULL, NULL, SOCK_CLOEXEC);
		/* what is said before the request is heard is no answer to it */
		if (fd < 0 || said || recv(fd, asked, sizeof(asked), MSG_DONTWAIT) <= 0)
			continue;
		said = true;
		(void) !send(fd, bytes, len, MSG_NOSIGNAL);
		(void) shutdown(fd, SHUT_WR);
	}
	FUZZ_ASSERT(kapture_http_next_finished() == request);
	if (fd >= 0)
		(void) close(fd);
	answer = kapture_http_answer(request);
	FUZZ_ASSERT(answer->retry_after >= -1 && answer->retry_after <= 86400000);
	FUZZ_ASSERT(answer->body_len <= fuzz_server.max_response_size);
	if (answer->outcome == KAPTURE_HTTP_ANSWERED)
		fuzz_answer(KAPTURE_API_PULL, answer->status, answer->body, answer->body_len);
	else
	{
		FUZZ_ASSERT(answer->phase != NULL && answer->detail != NULL && answer->sqlstate != 0);
		fuzz_check_text(answer->detail, strlen(answer->detail), false);
	}
	kapture_http_release(request);
	FUZZ_ASSERT(kapture_http_next_finished() == NULL);
}

/* ------------------------------------------------------------------------
 * One input; the driver
 * ------------------------------------------------------------------------
 */

static void
fuzz_one_input(const char *data, size_t size)
{
	/* a copy of its own, so that AddressSanitizer sees reads beyond its end */
	char	   *body = palloc(size - 3);

	memcpy(body, data + 3, size - 3);
	switch (data[2])
	{
		case 'l':
			SetDatabaseEncoding(PG_LATIN1);
			break;
		case 'j':
			SetDatabaseEncoding(PG_EUC_JP);
			break;
		case 's':
			SetDatabaseEncoding(PG_SQL_ASCII);
			break;
		default:
			SetDatabaseEncoding(PG_UTF8);
			break;
	}
	switch (data[0])
	{
		case 't':
			fuzz_values(body, size - 3);
			break;
		case 'h':
			fuzz_http(body, size - 3);
			break;
		default:
			fuzz_answer(data[0] == 'a' ? KAPTURE_API_ADD :
						data[0] == 'u' ? KAPTURE_API_UPDATE :
						data[0] == 'g' ? KAPTURE_API_GET : KAPTURE_API_PULL,
						fuzz_codes[((unsigned char) data[1] + 10 - '0' % 10) % 10], body, size - 3);
			break;
	}
}

static int
fuzz_one(const uint8 *data, size_t size)
{
	if (size < 4 || size > FUZZ_MAX_INPUT)
		return -1;
	MemoryContextSwitchTo(fuzz_context);
	PG_TRY();
	{
		fuzz_one_input((const char *) data, size);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(fuzz_long_context);
		error = CopyErrorData();
		fprintf(stderr, "raised an error: %s (%s, line %d)\n", error->message, error->funcname,
				error->lineno);
		abort();
	}
	PG_END_TRY();
	SetDatabaseEncoding(PG_UTF8);
	MemoryContextSwitchTo(fuzz_long_context);
	MemoryContextReset(fuzz_context);
	return 0;
}

/*
 * kapture_fuzz(VARIADIC text[]) returns void
 *		Runs libFuzzer with these arguments; it ends the process.
 */
Datum
kapture_fuzz(PG_FUNCTION_ARGS)
{
	static const char *const types[] = {"kapture_customer", "kapture_contact"};
	Datum	   *texts;
	int			ntexts;
	char	  **argv;
	int			argc = 1;

	fuzz_long_context = CurrentMemoryContext;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &texts, NULL, &ntexts);
	argv = palloc0(sizeof(char *) * (ntexts + 2));
	argv[0] = pstrdup("kapture_fuzz");
	for (int i = 0; i < ntexts; i++)
		argv[argc++] = TextDatumGetCString(texts[i]);

	fuzz_listen();
	for (int kind = 0; kind < 2; kind++)
	{
		fuzz_descs[kind] = lookup_rowtype_tupdesc_copy(TypenameGetTypid(types[kind]), -1);
		fuzz_readers[kind] = kapture_reader_create(kind, fuzz_descs[kind], fuzz_server.timezone);
	}
	fuzz_context = fuzz_context_create(TopMemoryContext, "input", 0, 0, 0);

	/* libFuzzer's own time-out leaves a handler alone that is there */
	pqsignal(SIGALRM, SIG_DFL);
	if (LLVMFuzzerRunDriver(&argc, &argv, fuzz_one) != 0)
		elog(ERROR, "libFuzzer could not run");
	PG_RETURN_VOID();
}
