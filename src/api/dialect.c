/*
 * dialect.c
 *		Request bodies in the form that an account wants.
 *
 * The rest of the extension makes bodies as in the vendor's document: one flat
 * object with our names of the fields.  Just before it is sent, kapture_message_body()
 * gives such a body the account's names and nesting (options field_names and
 * get_field_names), the constants of each request (add_fields, update_fields), and
 * the array around it.  Option dialect stands for a set of these options.
 *
 * A path is names with dots between them, each perhaps with a position in an
 * array: "contact_info[0].contact_person_name".
 *
 * No I/O.  Bodies are UTF-8.
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "api/dialect.h"
#include "api/field.h"

#define DIALECT_ID		"kapture_customer_id"

/* Highest position in an array that a path may name. */
#define DIALECT_MAX_INDEX	9

/* Key of the entry for all fields without one of their own: the field's name replaces the star in its path. */
#define DIALECT_REST	"*"

/* What option dialect stands for. */
static const struct
{
	const char *dialect;
	const char *option;
	const char *value;
}			dialect_presets[] =
{
	{"array-name", "add_body", "array"},
	{"array-name", "update_body", "array"},
	{"array-name", "field_names",
	"{\"customer_name\": \"name\", \"email_id\": \"email\", \"kapture_customer_id\": \"customer_id\"}"},
	{"v1", "add_path", "/ms/customer/customer/api/v1/add-update"},
	{"v1", "update_path", "/ms/customer/customer/api/v1/add-update"},
	{"v1", "field_names",
		"{\"kapture_customer_id\": \"customer_info.customer_id\","
		" \"contact_person_name\": \"contact_info[0].contact_person_name\","
		" \"contact_person_phone\": \"contact_info[0].contact_person_phone\","
		" \"contact_person_email\": \"contact_info[0].contact_person_email\","
		" \"additional_contact_phone\": \"contact_info[0].additional_contact_phone\","
		" \"gender\": \"contact_info[0].gender\","
	" \"*\": \"customer_info.*\"}"},
};

/* A value of a body that is being made. */
typedef struct DialectNode
{
	char	   *name;			/* escaped as in JSON; NULL: an element of an array */
	char	   *raw;			/* JSON; NULL: an object or an array */
	bool		is_array;
	List	   *children;		/* DialectNode, in their order */
} DialectNode;


/*
 * Presets
 */

/*
 * kapture_dialect_exists
 *		Is this a value of option dialect?
 */
bool
kapture_dialect_exists(const char *dialect)
{
	for (int i = 0; i < lengthof(dialect_presets); i++)
	{
		if (strcmp(dialect_presets[i].dialect, dialect) == 0)
			return true;
	}
	return strcmp(dialect, "seed") == 0;
}

/*
 * kapture_dialect_preset
 *		What a dialect sets another option to; NULL: it leaves it as it is.
 */
const char *
kapture_dialect_preset(const char *dialect, const char *option)
{
	for (int i = 0; i < lengthof(dialect_presets); i++)
	{
		if (strcmp(dialect_presets[i].dialect, dialect) == 0 && strcmp(dialect_presets[i].option, option) == 0)
			return dialect_presets[i].value;
	}
	return NULL;
}


/*
 * Paths
 */

/* Text as it stands between the quotes of JSON; palloc'ed. */
static char *
dialect_escape(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	escape_json(&out, text);
	out.data[out.len - 1] = '\0';
	return out.data + 1;
}

/*
 * Takes the next name of a path, with the position in an array that follows it
 * (-1: none).  Returns the rest, NULL if the path is not well formed.
 */
static const char *
dialect_step(const char *path, char **name, int *index)
{
	size_t		len = strcspn(path, ".[]");

	*index = -1;
	if (len == 0)
		return NULL;
	*name = pnstrdup(path, len);
	path += len;
	if (*path == '[')
	{
		if (!isdigit((unsigned char) path[1]) || path[2] != ']' || path[1] - '0' > DIALECT_MAX_INDEX)
			return NULL;
		*index = path[1] - '0';
		path += 3;
	}
	if (*path == '.')
		return path[1] == '\0' ? NULL : path + 1;
	return *path == '\0' ? path : NULL;
}

static bool
dialect_is_path(const char *path)
{
	char	   *name;
	int			index;

	do
	{
		path = dialect_step(path, &name, &index);
	} while (path && *path);
	return path != NULL;
}

/*
 * kapture_dialect_path
 *		The path of a field in requests, by the account's names (NULL: our names); palloc'ed.
 */
char *
kapture_dialect_path(const KaptureDialectEntry *names, const char *field)
{
	const char *rest = NULL;
	const char *star;

	for (const KaptureDialectEntry *entry = names; entry && entry->key; entry++)
	{
		if (strcmp(entry->key, field) == 0)
			return pstrdup(entry->value);
		if (strcmp(entry->key, DIALECT_REST) == 0)
			rest = entry->value;
	}
	if (rest == NULL)
		return pstrdup(field);
	star = strchr(rest, '*');
	return psprintf("%.*s%s%s", (int) (star - rest), rest, field, star + 1);
}


/*
 * Options
 */

/* A string of jsonb as UTF-8; palloc'ed. */
static char *
dialect_text(const JsonbValue *value)
{
	char	   *text = pnstrdup(value->val.string.val, value->val.string.len);

	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

/*
 * kapture_dialect_read_names
 *		The field names from an object {"field": "path", ...}; NULL with the reason
 *		in *why if it is not such an object.  palloc'ed.
 */
KaptureDialectEntry *
kapture_dialect_read_names(Jsonb *json, char **why)
{
	KaptureDialectEntry *entries = palloc0(sizeof(KaptureDialectEntry) * (JB_ROOT_COUNT(json) + 1));
	KaptureDialectEntry *entry = entries;
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		bool		is_rest;

		entry->key = dialect_text(&value);
		is_rest = strcmp(entry->key, DIALECT_REST) == 0;
		if (!is_rest && kapture_field_find(entry->key, strlen(entry->key)) == NULL)
		{
			*why = psprintf("\"%s\" is not one of Kapture's fields.", entry->key);
			return NULL;
		}
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvString)
		{
			*why = psprintf("The name of field \"%s\" must be a string.", entry->key);
			return NULL;
		}
		entry->value = dialect_text(&value);
		if (!dialect_is_path(entry->value))
		{
			*why = psprintf("\"%s\" is not a name, or names with dots between them, such as \"contact_info[0].name\".", entry->value);
			return NULL;
		}
		if (is_rest && strchr(entry->value, '*') == NULL)
		{
			*why = psprintf("The name of field \"%s\" must have a star where the field's own name goes.", DIALECT_REST);
			return NULL;
		}
		entry++;
	}
	return entries;
}

/*
 * kapture_dialect_read_constants
 *		The constants of requests, from an object {"path": value, ...}; NULL with
 *		the reason in *why if it is not such an object.  palloc'ed.
 */
KaptureDialectEntry *
kapture_dialect_read_constants(Jsonb *json, char **why)
{
	KaptureDialectEntry *entries = palloc0(sizeof(KaptureDialectEntry) * (JB_ROOT_COUNT(json) + 1));
	KaptureDialectEntry *entry = entries;
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	Jsonb	   *content;
	char	   *text;

	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		entry->key = dialect_text(&value);
		if (!dialect_is_path(entry->key))
		{
			*why = psprintf("\"%s\" is not a name, or names with dots between them, such as \"customer_info.update\".", entry->key);
			return NULL;
		}
		(void) JsonbIteratorNext(&it, &value, true);
		content = JsonbValueToJsonb(&value);
		text = JsonbToCString(NULL, &content->root, VARSIZE(content));
		entry->value = pg_server_to_any(text, strlen(text), PG_UTF8);
		entry++;
	}
	return entries;
}


/*
 * Making bodies
 */

/* The child of that name or at that position, made if there is none; NULL if the node cannot have such a child. */
static DialectNode *
dialect_child(DialectNode *node, const char *name, int index)
{
	ListCell   *lc;

	if (node->raw || (node->children && node->is_array != (name == NULL)))
		return NULL;
	node->is_array = name == NULL;
	if (name == NULL)
	{
		while (list_length(node->children) <= index)
			node->children = lappend(node->children, palloc0(sizeof(DialectNode)));
		return list_nth(node->children, index);
	}
	foreach(lc, node->children)
	{
		if (strcmp(((DialectNode *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	}
	node->children = lappend(node->children, palloc0(sizeof(DialectNode)));
	((DialectNode *) llast(node->children))->name = pstrdup(name);
	return llast(node->children);
}

/* Puts a value into a body, in place of what was there.  False: the place is taken by something else. */
static bool
dialect_put(DialectNode *root, const char *path, char *raw)
{
	DialectNode *node = root;

	while (node && *path)
	{
		char	   *name;
		int			index;

		path = dialect_step(path, &name, &index);
		if (path == NULL)
			return false;
		node = dialect_child(node, dialect_escape(name), 0);
		if (node && index >= 0)
			node = dialect_child(node, NULL, index);
	}
	if (node == NULL || node->children)
		return false;
	node->raw = raw;
	return true;
}

/*
 * kapture_dialect_conflict
 *		Why names and constants cannot be in the same body; NULL if they can.
 *		palloc'ed.
 */
char *
kapture_dialect_conflict(const KaptureDialectEntry *names, const KaptureDialectEntry *constants)
{
	DialectNode root = {0};
	List	   *paths = NIL;
	ListCell   *lc;

	for (const KaptureDialectEntry *entry = constants; entry && entry->key; entry++)
	{
		if (!dialect_put(&root, entry->key, entry->value))
			return psprintf("\"%s\" cannot be in the same body as another one of them.", entry->key);
	}
	for (int i = 0; i < kapture_nfields; i++)
	{
		const char *field = kapture_fields[i].name;
		char	   *path;

		if ((!kapture_fields[i].is_mapped || kapture_fields[i].is_extra) && strcmp(field, DIALECT_ID) != 0)
			continue;
		path = kapture_dialect_path(names, field);
		foreach(lc, paths)
		{
			if (strcmp(lfirst(lc), path) == 0)
				return psprintf("Field \"%s\" has the name \"%s\", like another field.", field, path);
		}
		if (!dialect_put(&root, path, pstrdup("")))
			return psprintf("Field \"%s\" cannot have the name \"%s\", as there is something else of that name.", field, path);
		paths = lappend(paths, path);
	}
	return NULL;
}

static void
dialect_write(StringInfo out, const DialectNode *node)
{
	bool		first = true;
	ListCell   *lc;

	if (node->raw)
	{
		appendStringInfoString(out, node->raw);
		return;
	}
	appendStringInfoChar(out, node->is_array ? '[' : '{');
	foreach(lc, node->children)
	{
		const DialectNode *child = lfirst(lc);

		appendStringInfoString(out, first ? "" : ", ");
		if (child->name)
			appendStringInfo(out, "\"%s\": ", child->name);
		dialect_write(out, child);
		first = false;
	}
	appendStringInfoChar(out, node->is_array ? ']' : '}');
}

/* The end of the value of JSON that begins here. */
static const char *
dialect_value_end(const char *p)
{
	int			depth = 0;

	for (; *p; p++)
	{
		if (*p == '"')
		{
			for (p++; *p && *p != '"'; p++)
			{
				if (*p == '\\' && p[1])
					p++;
			}
			if (*p == '\0')
				return p;
		}
		else if (*p == '{' || *p == '[')
			depth++;
		else if (depth == 0 && (*p == ',' || *p == '}' || *p == ']'))
			return p;
		else if (*p == '}' || *p == ']')
			depth--;
	}
	return p;
}

/* Puts the fields of a flat object, which the extension has made, into a body. */
static void
dialect_put_fields(DialectNode *root, const KaptureDialectEntry *names, const char *body)
{
	const char *p = body + 1;

	while (*(p += strspn(p, ", ")) == '"')
	{
		const char *quote = strchr(p + 1, '"'); /* fields' names need no escapes */
		char	   *field = pnstrdup(p + 1, quote - p - 1);
		char	   *path = kapture_dialect_path(names, field);
		const char *end;

		p = quote + 1;
		p += strspn(p, ": ");
		end = dialect_value_end(p);
		if (!dialect_put(root, path, pnstrdup(p, end - p)))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\"", "field_names"),
					 errdetail("Field \"%s\" cannot have the name \"%s\", as there is something else of that name.", field, path)));
		p = end;
	}
}

/*
 * kapture_dialect_body
 *		The object to send for "body", a flat object with our names of the fields.
 *
 * Either list may be NULL.  The result is palloc'ed.  Errors: HV024 a field's name
 * is taken by something else.
 */
char *
kapture_dialect_body(const KaptureDialectEntry *names, const KaptureDialectEntry *constants,
					 const char *body)
{
	DialectNode root = {0};
	StringInfoData out;

	for (const KaptureDialectEntry *entry = constants; entry && entry->key; entry++)
		(void) dialect_put(&root, entry->key, entry->value);
	dialect_put_fields(&root, names, body);
	initStringInfo(&out);
	dialect_write(&out, &root);
	return out.data;
}

/*
 * kapture_dialect_is_used
 *		Is a field of ours called by this name in the account's requests?
 */
bool
kapture_dialect_is_used(const KaptureDialectEntry *names, const char *name)
{
	for (const KaptureDialectEntry *entry = names; entry && entry->key; entry++)
	{
		if (strcmp(entry->value, name) == 0)
			return true;
	}
	return false;
}

/*
 * kapture_dialect_value
 *		Finds a field in an object that has the account's form; false: it is not
 *		there.
 */
bool
kapture_dialect_value(const KaptureDialectEntry *names, Jsonb *object,
					  const char *field, JsonbValue *value)
{
	const char *path = kapture_dialect_path(names, field);
	JsonbContainer *container = &object->root;

	for (;;)
	{
		char	   *name;
		int			index;

		path = dialect_step(path, &name, &index);
		if (path == NULL || getKeyJsonValueFromContainer(container, name, strlen(name), value) == NULL)
			return false;
		if (index >= 0)
		{
			JsonbValue *element;

			if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
				return false;
			element = getIthJsonbValueFromContainer(value->val.binary.data, index);
			if (element == NULL)
				return false;
			*value = *element;
		}
		if (*path == '\0')
			return true;
		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			return false;
		container = value->val.binary.data;
	}
}
