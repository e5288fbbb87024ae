/*
 * columns.h
 *		Customers and contacts of Kapture's answers as typed columns.
 */
#ifndef KAPTURE_COLUMNS_H
#define KAPTURE_COLUMNS_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef enum KaptureRowKind
{
	KAPTURE_ROW_CUSTOMER,		/* type kapture_customer */
	KAPTURE_ROW_CONTACT			/* type kapture_contact */
} KaptureRowKind;

typedef struct KaptureReader KaptureReader;

extern KaptureReader *kapture_reader_create(KaptureRowKind kind,
											TupleDesc desc,
											const char *timezone);
extern void kapture_reader_read(KaptureReader *reader, JsonbValue *object,
								Datum *values, bool *isnull);
extern void kapture_reader_set_bigint(KaptureReader *reader, const char *name,
									  int64 value, Datum *values,
									  bool *isnull);
extern void kapture_columns_check(KaptureRowKind kind, TupleDesc desc, int level);
extern char *kapture_columns_sql(KaptureRowKind kind);
extern List *kapture_column_keys(const char *sql);
extern const char *kapture_column_field(Form_pg_attribute attr);
extern bool kapture_is_object(const JsonbValue *value);
extern bool kapture_customer_id(const JsonbValue *customer, int64 *id);
extern JsonbContainer *kapture_customer_contacts(const JsonbValue *customer);

#endif							/* KAPTURE_COLUMNS_H */
