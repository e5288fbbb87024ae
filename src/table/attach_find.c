/*
 * attach_find.c
 *		Which attachment an SQL function is called for.
 */
#include "postgres.h"

#include "access/relation.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/argument.h"
#include "base/version.h"
#include "table/attach_find.h"

/*
 * Returns the attachments of the relation in an argument of a function, in the order of
 * their numbers, in the current memory context.  The relation stays locked.  Errors:
 * 22004 the argument is NULL, 42P01 there is no such relation, 42501 it is not the
 * caller's, 42704 it is not attached, 55000 the extension is to be updated first.
 */
static List *
attach_find_argument(FunctionCallInfo fcinfo, int arg, LOCKMODE lockmode)
{
	Relation	rel;
	List	   *attachments;
	KaptureAttachment *att;

	kapture_argument_check_null(fcinfo, arg, "relation");
	kapture_version_require();
	rel = kapture_argument_open(PG_GETARG_OID(arg), lockmode, kapture_argument_check_owner);
	attachments = kapture_catalog_attachments(rel);
	att = attachments != NIL ? linitial(attachments) : NULL;
	if (att == NULL || att->root != RelationGetRelid(rel))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not attached to Kapture", RelationGetRelationName(rel)),
				 att ? errhint("It is kept in step as part of table \"%s\"; name that one.", get_rel_name(att->root)) :
				 errhint("Use kapture_attach() to attach it; the view kapture_status shows attached tables.")));
	relation_close(rel, NoLock);
	return attachments;
}

/*
 * Returns the first attachment of the relation in an argument of a function, for
 * functions that are about the table and not about one of its attachments, as
 * attach_find_argument() does.
 */
KaptureAttachment *
kapture_attach_find_table(FunctionCallInfo fcinfo, int arg, LOCKMODE lockmode)
{
	return linitial(attach_find_argument(fcinfo, arg, lockmode));
}

/* The names of attachments, for a hint. */
static char *
attach_names(const List *attachments)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, attachments)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", ((KaptureAttachment *) lfirst(lc))->name);
	return names.data;
}

/*
 * Returns attachments of the relation in a function's first argument, in the current
 * memory context: the one that argument "name_arg" names, or all if that is NULL.
 * The relation stays locked.  Errors: 22004 the relation is NULL, 42P01 there
 * is no such relation, 42501 it is not the caller's, 42704 it is not attached, or not
 * under that name, 55000 the extension is to be updated first.
 */
List *
kapture_attach_find_all(FunctionCallInfo fcinfo, int name_arg, LOCKMODE lockmode)
{
	List	   *attachments = attach_find_argument(fcinfo, 0, lockmode);
	char	   *name;
	ListCell   *lc;

	if (PG_ARGISNULL(name_arg))
		return attachments;
	name = text_to_cstring(PG_GETARG_TEXT_PP(name_arg));
	foreach(lc, attachments)
	{
		if (strcmp(((KaptureAttachment *) lfirst(lc))->name, name) == 0)
			return list_make1(lfirst(lc));
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" has no attachment \"%s\"", get_rel_name(PG_GETARG_OID(0)), name),
			 list_length(attachments) == 1 && ((KaptureAttachment *) linitial(attachments))->name[0] == '\0' ?
			 errhint("It has one, without a name: leave out argument \"name\".") :
			 errhint("Its attachments are %s.", attach_names(attachments))));
	return NIL;
}

/*
 * Returns the only attachment that kapture_attach_find_all() finds.  Errors: those of
 * that function, and 42725 if there are several.
 */
KaptureAttachment *
kapture_attach_find(FunctionCallInfo fcinfo, int name_arg, LOCKMODE lockmode)
{
	List	   *attachments = kapture_attach_find_all(fcinfo, name_arg, lockmode);

	if (list_length(attachments) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				 errmsg("table \"%s\" has several attachments", get_rel_name(PG_GETARG_OID(0))),
				 errhint("Name one of them in argument \"name\": %s.", attach_names(attachments))));
	return linitial(attachments);
}

/*
 * Returns the attachment with this number of the relation in a function's first
 * argument, in the current memory context.  The relation stays locked.  Errors: as
 * kapture_attach_find_all(); 42704 also if the attachment has ended.
 */
KaptureAttachment *
kapture_attach_find_again(FunctionCallInfo fcinfo, int32 attachment_id, LOCKMODE lockmode)
{
	ListCell   *lc;

	foreach(lc, attach_find_argument(fcinfo, 0, lockmode))
	{
		if (((KaptureAttachment *) lfirst(lc))->id == attachment_id)
			return lfirst(lc);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("an attachment of table \"%s\" has ended meanwhile", get_rel_name(PG_GETARG_OID(0)))));
	return NULL;
}
