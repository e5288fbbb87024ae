/*
 * sync.pml
 *		The way of a row to Kapture, as a model that spin explores exhaustively:
 *		claim, send, answer, record, with crashes and losses at any step.
 *
 * docs/dev/protocol.md explains it; test/t/096_model.pl runs it, with the bounds
 * of each run as -D, and once for each fault (-DFAULT_...) that it has to find.
 * Names of states and steps are those of src/push/task.h, statements those of
 * src/queue/statements.c.  A comment names the function that a part stands for.
 *
 * Each transaction is one step, as its snapshot is.  Time is in what may not happen
 * yet: a doubt ends when no request of its delivery is left that may be carried out.
 * All that goes wrong is counted, so that no run goes on for ever by itself: a cycle
 * is a fault, and so is a row that is left behind when nothing can happen any more.
 */

/* How much there is of everything; a run sets what it needs. */
#ifndef ROWS
#define ROWS 1
#endif
#ifndef DELIVERIES
#define DELIVERIES ROWS
#endif
#ifndef CUSTOMERS
#define CUSTOMERS 2
#endif
#ifndef INSERTS					/* rows that come later */
#define INSERTS 0
#endif
#ifndef CHANGES					/* of a row's value */
#define CHANGES 0
#endif
#ifndef CONTACTS				/* of a row's phone */
#define CONTACTS 0
#endif
#ifndef SHIFTS					/* the first row gets the phone (SHIFTS_EMAIL: email) of the second, which gets another one */
#define SHIFTS 0
#endif
#ifndef SWAPS					/* they exchange their phones */
#define SWAPS 0
#endif
#ifndef DELETES
#define DELETES 0
#endif
#ifndef REKEYS					/* a row gets a key that no row has, or two exchange theirs */
#define REKEYS 0
#endif
#ifndef CRASHES					/* of the worker */
#define CRASHES 0
#endif
#ifndef SERVER_CRASHES
#define SERVER_CRASHES 0
#endif
#ifndef LOSSES					/* of connections */
#define LOSSES 0
#endif
#ifndef LAGS					/* searches that do not find what is there */
#define LAGS 0
#endif
#ifndef REFUSALS				/* of values */
#define REFUSALS 0
#endif
#ifndef TROUBLES				/* the server takes no request for now */
#define TROUBLES 0
#endif
#ifndef LOCKS					/* the row is locked, or moves on, when its id is to be written */
#define LOCKS 0
#endif
#ifndef EMAILS					/* do rows have an email, too? */
#define EMAILS 0
#endif
#ifndef ON_DELETE				/* is it reported that a row was deleted? */
#define ON_DELETE 0
#endif
#ifndef SEEDED					/* customers that were there before: 1 has row 1's phone, 2 its email, 3 both; 4: two have one each */
#define SEEDED 0
#endif
#ifndef KAPTURE_SEARCHES		/* traffic/pacing.h */
#define KAPTURE_SEARCHES 2
#endif

#define KEYS		3
#define NO_ROWS		16
#define OUTBOX		4
#define NONE		255
#define VALUE		1			/* fields, as bits */
#define CONTACT		2			/* phone and email */
#define ALL			3
#define CHANGED		4			/* "again" may be of no field */

mtype = {
	/* KaptureTaskState */
	KAPTURE_TASK_SEND, KAPTURE_TASK_DONE, KAPTURE_TASK_FAILED, KAPTURE_TASK_RELEASE,
	/* KaptureStep */
	KAPTURE_STEP_ADD, KAPTURE_STEP_UPDATE, KAPTURE_STEP_DELETED, KAPTURE_STEP_FIND_PHONE, KAPTURE_STEP_FIND_EMAIL,
	KAPTURE_STEP_FIND_BOTH, KAPTURE_STEP_FIND_NAMED,
	/* KaptureVerdict, and what becomes of requests without one */
	KAPTURE_SUCCESS, KAPTURE_PARTLY_FOUND, KAPTURE_NOT_FOUND, KAPTURE_DUPLICATE, KAPTURE_REFUSED, KAPTURE_DENIED, KAPTURE_HTTP_IN_DOUBT,
	/* kapture_delivery.state */
	sending, retry, parked,
	/* kapture_delivery.in_doubt */
	running, over,
	/* kapture_outbox.op */
	written, deleted, rekeyed, swapped
};

/* A row of the user's table. */
typedef Row {
	bit present;
	byte key;
	byte phone;
	byte email;
	byte value;
	byte customer				/* kapture_customer_id */
}

/* An entry of kapture_outbox. */
typedef Entry {
	mtype op;
	byte key;
	byte to;					/* of a deleted row: its customer, if that is to be reported */
	byte changed
}

/* An entry of kapture_delivery. */
typedef Delivery {
	bit used;
	byte key;					/* 0: the row is no more */
	mtype state;
	byte attempts;
	byte changed;
	byte again;
	byte customer;
	mtype in_doubt;
	byte sent_phone;
	byte sent_email;
	byte searches;
	byte waits_for;				/* with NO_ROWS, while no row is known to have it */
	bit stood_back;
	byte was;					/* the customer of its row, which is deleted */
	bit waited;					/* of the proof: for what an earlier search has missed */
	byte judged					/* of the proof: the values that it is parked for */
}

/* An entry of kapture_row, by its key; the digests are the values themselves. */
typedef Known {
	byte customer;
	byte value;
	byte phone;
	byte email
}

/* All that is in the database. */
typedef Database {
	Row row[ROWS];
	Delivery delivery[DELIVERIES];
	Known known[KEYS + 1];
	Entry outbox[OUTBOX];
	byte noutbox;
	bit named[CUSTOMERS + 1]	/* of the proof: a row or the history has had it */
}

/* KaptureTask: what the worker has in memory of a delivery. */
typedef Task {
	bit used;
	bit requested;				/* a request is under way */
	bit gone;
	mtype state;
	mtype step;
	byte attempt;
	byte row;					/* as it was read: which, */
	byte phone;
	byte email;
	byte value;
	byte had;					/* and its id */
	byte changed;
	byte customer;
	byte kept;					/* customer_id of the delivery */
	mtype in_doubt;
	byte searches;
	byte brings;
	byte sent;
	bit asked_first;
	bit lost;
	bit added;
	bit reported;
	byte named_id;
	byte by_phone;
	byte by_email;
	bit seeks;					/* whose phone or email its Update was refused for: */
	byte held_by;
	mtype verdict;				/* the answer, if there is one: */
	byte id
}

/* A customer in Kapture. */
typedef Customer {
	bit made;
	bit reported;				/* that its row was deleted */
	byte row;					/* of the proof: whose Add made it */
	byte phone;
	byte email;
	byte value
}

/* A request that nobody waits for any more, and that may be carried out yet. */
typedef Lost {
	mtype step;
	byte row;
	byte phone;
	byte email;
	byte value;
	byte brings;
	byte customer
}

Database db;
Task task[DELIVERIES];
Customer crm[CUSTOMERS + 1];
Lost lost[DELIVERIES];

byte inserts = INSERTS, changes = CHANGES, contacts = CONTACTS, shifts = SHIFTS, swaps = SWAPS, deletes = DELETES, rekeys = REKEYS;
byte crashes = CRASHES, losses = LOSSES, lags = LAGS, refusals = REFUSALS, troubles = TROUBLES, locks = LOCKS;

#if SERVER_CRASHES
/* What is on disk, while the last records are not: their commits do not wait for that. */
Database disk;
bit is_lazy;
byte server_crashes = SERVER_CRASHES;
#endif

#if LATE_ANSWERS
/* A record that an earlier worker has not got round to. */
byte late_answers = LATE_ANSWERS;
byte late_of = NONE;
byte late_attempt;
#endif

/* Scratch within one step. */
hidden byte i_, j_, n_, tries_, r_, on_, answer_, by_phone_, by_email_, found_, waits_for_, keep_, from_, to_, was_, is_, c_, k_, z_;
hidden mtype verdict_;
hidden byte ok_, gone_, rekeyed_, held_, adding_, reporting_, late_, ended_, park_, arrived_, unsure_;

/* A request whose end nobody saw may be carried out yet. */
#ifdef FAULT_NO_WAIT
#define DOUBT	over
#else
#define DOUBT	running
#endif

#define D		db.delivery[d]
#define T		task[d]

#define PACK(value, phone, email)	((value) + 8 * (phone) + 64 * (email))

/* ---- the proof ---- */

inline check_ids()
{
	for (i_ : 0 .. ROWS - 1) {
		for (j_ : 0 .. ROWS - 1) {
			assert(i_ == j_ || !db.row[i_].present || !db.row[j_].present || db.row[i_].customer == 0 ||
				db.row[i_].customer != db.row[j_].customer)
		}
	}
	skip
}

/* What is reported is of no row that is there. */
inline check_report(d)
{
	for (i_ : 0 .. ROWS - 1) {
		assert(T.step != KAPTURE_STEP_DELETED || !db.row[i_].present || db.row[i_].customer != T.customer)
	}
	skip
}

/* ---- Kapture ---- */

/* Of what an Update is a duplicate, as Kapture says. */
#define OF_PHONE	1
#define OF_EMAIL	2

/* Carries out a request: verdict_, found_. */
inline carry_out(what, whose, a_phone, an_email, a_value, fields, customer_id)
{
	k_ = customer_id;
	by_phone_ = 0;
	by_email_ = 0;
	found_ = 0;
	for (i_ : 1 .. CUSTOMERS) {
		if
		:: crm[i_].made && crm[i_].phone == a_phone -> by_phone_ = i_
		:: else
		fi;
		if
		:: crm[i_].made && an_email != 0 && crm[i_].email == an_email -> by_email_ = i_
		:: else
		fi
	}
	verdict_ = KAPTURE_SUCCESS;
	if
	:: what == KAPTURE_STEP_ADD && (by_phone_ || by_email_) ->
		verdict_ = KAPTURE_DUPLICATE;
		found_ = (by_phone_ -> by_phone_ : by_email_)
	:: what == KAPTURE_STEP_ADD && !(by_phone_ || by_email_) ->
		found_ = 1;
		do
		:: found_ <= CUSTOMERS && crm[found_].made -> found_++
		:: else -> break
		od;
		assert(found_ <= CUSTOMERS);
		crm[found_].made = 1;
		crm[found_].row = whose;
		crm[found_].phone = a_phone;
		crm[found_].email = an_email;
		crm[found_].value = a_value
	:: what == KAPTURE_STEP_UPDATE ->
		if
		:: (fields & CONTACT) && ((by_phone_ && by_phone_ != customer_id) || (by_email_ && by_email_ != customer_id)) ->
			verdict_ = KAPTURE_DUPLICATE;
			found_ = OF_PHONE * (by_phone_ && by_phone_ != customer_id) + OF_EMAIL * (by_email_ && by_email_ != customer_id)
#if VAGUE_DUPLICATES
			;
			found_ = OF_PHONE + OF_EMAIL
#endif
		:: else ->
			if
			:: fields & CONTACT ->
				crm[k_].phone = a_phone;
				crm[k_].email = an_email
			:: else
			fi;
			if
			:: fields & VALUE -> crm[k_].value = a_value
			:: else
			fi
		fi
	:: what == KAPTURE_STEP_DELETED -> crm[k_].reported = 1
	:: what == KAPTURE_STEP_FIND_PHONE -> found_ = by_phone_
	:: what == KAPTURE_STEP_FIND_EMAIL -> found_ = by_email_
	:: what == KAPTURE_STEP_FIND_BOTH ->
#if FINDS_EITHER
		found_ = (by_phone_ -> by_phone_ : by_email_)
#else
		found_ = (by_phone_ == by_email_ -> by_phone_ : 0)
#endif
	:: what == KAPTURE_STEP_FIND_NAMED ->
		/* the name counts only with the phone or the email */
		found_ = (by_phone_ == customer_id || by_email_ == customer_id -> customer_id : 0)
	fi
}

#define IS_FIND(step)	((step) != KAPTURE_STEP_ADD && (step) != KAPTURE_STEP_UPDATE && (step) != KAPTURE_STEP_DELETED)

/* The request of a task: searches are for what was sent, the others bring what was read. */
inline carry_out_task(d)
{
	if
	:: IS_FIND(T.step) -> carry_out(T.step, NONE, D.sent_phone, D.sent_email, 0, 0, T.named_id)
	:: else -> carry_out(T.step, T.row, T.phone, T.email, T.value, T.brings, T.customer)
	fi
}

inline clear_lost(d)
{
	z_ = d;
	c_code { memset(&now.lost[z_], 0, sizeof(now.lost[z_])); }
}

/* Nobody waits for the task's request any more; a search leaves nothing behind. */
inline lose_request(d)
{
	if
	:: !IS_FIND(T.step) ->
		assert(lost[d].step == 0);
		lost[d].step = T.step;
		lost[d].row = T.row;
		lost[d].phone = T.phone;
		lost[d].email = T.email;
		lost[d].value = T.value;
		lost[d].brings = T.brings;
		lost[d].customer = T.customer
	:: else
	fi
}

#define IN_FLIGHT	(T.used && T.requested && T.verdict == 0)

/* A search may miss what is there: always, or unless it is one that has waited for that. */
#if LATE_ADDS
#define MAY_LAG		(lags > 0 && IS_FIND(T.step))
#else
#define MAY_LAG		(lags > 0 && IS_FIND(T.step) && ((T.asked_first && !D.waited) || (T.seeks && T.searches == 0)))
#endif

proctype kapture(byte d)
{
end:
	do
	:: d_step { IN_FLIGHT ->
			carry_out_task(d);
#if NAMELESS_ADDS
			if
			:: T.step == KAPTURE_STEP_ADD && verdict_ == KAPTURE_SUCCESS -> found_ = 0
			:: else
			fi;
#endif
			T.verdict = (IS_FIND(T.step) && found_ == 0 -> KAPTURE_NOT_FOUND : verdict_);
			T.id = found_;
			if
			:: T.step == KAPTURE_STEP_FIND_BOTH && found_ != 0 &&
				(crm[found_].phone != D.sent_phone || crm[found_].email != D.sent_email) ->
				T.verdict = KAPTURE_PARTLY_FOUND
			:: else
			fi
		}
	:: d_step { IN_FLIGHT && MAY_LAG ->
			lags--;
			T.verdict = KAPTURE_NOT_FOUND
		}
	:: d_step { IN_FLIGHT && losses > 0 ->	/* the answer is lost */
			losses--;
			carry_out_task(d);
			T.verdict = KAPTURE_HTTP_IN_DOUBT
		}
	:: d_step { IN_FLIGHT && losses > 0 ->	/* the request is late, or lost */
			losses--;
			lose_request(d);
			T.verdict = KAPTURE_HTTP_IN_DOUBT
		}
	:: d_step { IN_FLIGHT && refusals > 0 && !IS_FIND(T.step) ->	/* values */
			refusals--;
			T.verdict = KAPTURE_REFUSED
		}
	:: d_step { IN_FLIGHT && troubles > 0 ->
			troubles--;
			T.verdict = KAPTURE_DENIED
		}
	:: d_step { lost[d].step != 0 ->	/* late */
			carry_out(lost[d].step, lost[d].row, lost[d].phone, lost[d].email, lost[d].value, lost[d].brings, lost[d].customer);
			clear_lost(d)
		}
	:: d_step { lost[d].step != 0 -> clear_lost(d) }
	od
}

/* ---- users ---- */

/* A user's transaction commits: on disk, and all before it. */
inline user_commits()
{
#if SERVER_CRASHES
	is_lazy = 0;
	c_code { memset(&now.disk, 0, sizeof(now.disk)); };
#endif
	skip
}

inline capture(an_op, a_key, a_new_key, fields)
{
	assert(db.noutbox < OUTBOX);
	db.outbox[db.noutbox].op = an_op;
	db.outbox[db.noutbox].key = a_key;
	db.outbox[db.noutbox].to = a_new_key;
	db.outbox[db.noutbox].changed = fields;
	db.noutbox++;
	user_commits()
}

inline insert_row(r, a_key)
{
	db.row[r].present = 1;
	db.row[r].key = a_key;
#if SAME_PHONE
	db.row[r].phone = 1;
#else
	db.row[r].phone = r + 1;
#endif
	db.row[r].email = (EMAILS -> r + 1 : 0);
	db.row[r].value = 1;
	capture(written, a_key, 0, ALL)
}

#define ROOM		(db.noutbox < OUTBOX)

/* The row of a place in the table; places are not used again, so that the proof can tell rows apart. */
proctype user(byte r)
{
	bit was_there = (r < ROWS - INSERTS);

end:
	do
	:: d_step { !was_there && inserts > 0 && ROOM ->	/* under a key that is free, maybe again */
			i_ = 1;
			do
			:: i_ <= KEYS ->
				ok_ = true;
				for (j_ : 0 .. ROWS - 1) {
					ok_ = ok_ && !(db.row[j_].present && db.row[j_].key == i_)
				}
				if
				:: ok_ -> break
				:: else -> i_++
				fi
			od;
			was_there = 1;
			inserts--;
			n_ = i_;
			insert_row(r, n_)
		}
	:: d_step { db.row[r].present && changes > 0 && ROOM ->
			changes--;
			db.row[r].value = 3 - db.row[r].value;
			capture(written, db.row[r].key, 0, VALUE)
		}
	:: d_step { db.row[r].present && contacts > 0 && ROOM ->
			contacts--;
			db.row[r].phone = (db.row[r].phone == 3 -> 4 : 3);
			capture(written, db.row[r].key, 0, CONTACT)
		}
#if SHIFTS || SWAPS
	:: d_step { r == 0 && db.row[0].present && db.row[1].present && shifts + swaps > 0 && db.noutbox + 2 <= OUTBOX ->
#if SHIFTS_EMAIL
			n_ = db.row[0].email;
			db.row[0].email = db.row[1].email;
			db.row[1].email = (swaps > 0 -> n_ : 5);
#else
			n_ = db.row[0].phone;
			db.row[0].phone = db.row[1].phone;
			db.row[1].phone = (swaps > 0 -> n_ : 5);
#endif
			if
			:: swaps > 0 -> swaps--
			:: else -> shifts--
			fi;
			capture(written, db.row[0].key, 0, CONTACT);
			capture(written, db.row[1].key, 0, CONTACT)
		}
#endif
	:: d_step { db.row[r].present && deletes > 0 && ROOM ->
			deletes--;
			n_ = db.row[r].key;
			k_ = (ON_DELETE -> db.row[r].customer : 0);
			z_ = r;
			c_code { memset(&now.db.row[z_], 0, sizeof(now.db.row[z_])); };
			capture(deleted, n_, k_, 0)
		}
	:: d_step { db.row[r].present && rekeys > 0 && ROOM && db.row[r].key != KEYS ->
			ok_ = true;
			for (j_ : 0 .. ROWS - 1) {
				ok_ = ok_ && !(db.row[j_].present && db.row[j_].key == KEYS)
			}
			rekeys--;
			if
			:: ok_ ->
				n_ = db.row[r].key;
				db.row[r].key = KEYS;
				capture(rekeyed, n_, KEYS, 0)
			:: else
			fi
		}
#if ROWS > 1
	:: d_step { r == 0 && db.row[0].present && db.row[1].present && rekeys > 0 && ROOM ->
			rekeys--;
			n_ = db.row[0].key;
			db.row[0].key = db.row[1].key;
			db.row[1].key = n_;
			capture(swapped, db.row[0].key, db.row[1].key, 0)
		}
#endif
	od
}

/* ---- which transitions there are, for test/t/096_model.pl: not part of the state ---- */

/* What moves a task on: kapture_trace_task() has the same names; those of verdicts are below. */
#define ON_PLAN			0
#define ON_YIELD		8
#define ON_STAND_BACK	9
#define ON_LOCKED		10
#define ON_TAKE_BACK	11
#define ON_LEAVE		12
#define ON_SPARE		13
#define ON_LET_REPORT	14
#define ON_TRY_AGAIN	15

c_decl {
	static unsigned char taken[12][16][12];
	static unsigned char moved[4][4];
	static void tell_taken(void)
	{
		static const char *const places[] = {"CLAIMED", "ADD", "UPDATE", "FIND_PHONE", "FIND_EMAIL", "FIND_BOTH", "FIND_NAMED",
			"DONE", "FAILED", "RELEASE", "PARKED", "DELETED"};
		static const char *const events[] = {"plan", "SUCCESS", "PARTLY_FOUND", "NOT_FOUND", "DUPLICATE", "REFUSED", "DENIED",
			"IN_DOUBT", "yield", "stand_back", "locked", "take_back", "leave", "spare", "let_report", "try_again"};
		static const char *const states[] = {"none", "sending", "retry", "parked"};

		for (int from = 0; from < 12; from++)
			for (int on = 0; on < 16; on++)
				for (int to = 0; to < 12; to++)
					if (taken[from][on][to])
						printf("transition: %s %s %s\n", places[from], events[on], places[to]);
		for (int from = 0; from < 4; from++)
			for (int to = 0; to < 4; to++)
				if (moved[from][to])
					printf("delivery: %s %s\n", states[from], states[to]);
	}
}

/* The task's place: to_. */
inline place(d)
{
	if
	:: T.state == 0 -> to_ = 0
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_ADD -> to_ = 1
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_UPDATE -> to_ = 2
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_FIND_PHONE -> to_ = 3
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_FIND_EMAIL -> to_ = 4
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_FIND_BOTH -> to_ = 5
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_FIND_NAMED -> to_ = 6
	:: T.state == KAPTURE_TASK_DONE -> to_ = 7
	:: T.state == KAPTURE_TASK_FAILED && !park_ -> to_ = 8
	:: T.state == KAPTURE_TASK_RELEASE -> to_ = 9
	:: T.state == KAPTURE_TASK_FAILED && park_ -> to_ = 10
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_DELETED -> to_ = 11
	fi
}

/* A transition begins, and has been taken. */
inline enter_place(d)
{
	place(d);
	from_ = to_
}

inline note_place(d, on)
{
	place(d);
	on_ = on;
	c_code { taken[from_][on_][to_] = 1; }
}

/* What an answer is, as a transition's cause. */
#define ON_VERDICT(d) \
	(T.verdict == KAPTURE_SUCCESS -> 1 : (T.verdict == KAPTURE_PARTLY_FOUND -> 2 : (T.verdict == KAPTURE_NOT_FOUND -> 3 : \
	(T.verdict == KAPTURE_DUPLICATE -> 4 : (T.verdict == KAPTURE_REFUSED -> 5 : (T.verdict == KAPTURE_DENIED -> 6 : 7))))))

/* A delivery gets another state; 0: it is no more. */
inline set_state(at, a_state)
{
	was_ = (!db.delivery[at].used || db.delivery[at].state == 0 -> 0 : (db.delivery[at].state == sending -> 1 : (db.delivery[at].state == retry -> 2 : 3)));
	is_ = (a_state == 0 -> 0 : (a_state == sending -> 1 : (a_state == retry -> 2 : 3)));
	c_code { if (was_ != is_) moved[was_][is_] = 1; };
	db.delivery[at].state = a_state
}

/* ---- the queue: queue/statements.c, known/row_state.c ---- */

inline clear_delivery(d)
{
#if LATE_ANSWERS
	/* the next one here has another delivery_id */
	late_of = (late_of == d -> NONE : late_of);
#endif
	set_state(d, 0);
	z_ = d;
	c_code { memset(&now.db.delivery[z_], 0, sizeof(now.db.delivery[z_])); }
}

inline clear_known(a_key)
{
	z_ = a_key;
	c_code { memset(&now.db.known[z_], 0, sizeof(now.db.known[z_])); }
}


/* The digests of the row with this key are not known: OUTBOX_DOUBT. */
inline doubt_digests(k)
{
#ifndef FAULT_DIGESTS_OF_DOUBTFUL
	db.known[k].value = 0;
	db.known[k].phone = 0;
	db.known[k].email = 0
#else
	skip
#endif
}

/* The delivery of the row with this key: n_, or NONE. */
inline find_delivery(k)
{
	n_ = NONE;
	for (i_ : 0 .. DELIVERIES - 1) {
		if
		:: db.delivery[i_].used && db.delivery[i_].key == k -> n_ = i_
		:: else
		fi
	}
	skip
}

/* A place for a new one: n_. */
inline new_delivery()
{
	n_ = 0;
	do
	:: n_ < DELIVERIES && (db.delivery[n_].used || lost[n_].step != 0) -> n_++
	:: else -> break
	od;
	assert(n_ < DELIVERIES);
	db.delivery[n_].used = 1
}

/* OUTBOX_WAIT */
inline wait(k, fields)
{
	find_delivery(k);
	if
	:: n_ == NONE ->
		new_delivery();
		db.delivery[n_].key = k;
		set_state(n_, retry);
		db.delivery[n_].changed = fields
	:: n_ != NONE && db.delivery[n_].state == sending ->
		db.delivery[n_].again = db.delivery[n_].again | fields | CHANGED
	:: else ->
		db.delivery[n_].changed = db.delivery[n_].changed | fields;
		set_state(n_, retry);
		db.delivery[n_].judged = 0
	fi
}

inline clear_task(d)
{
	z_ = d;
	c_code { memset(&now.task[z_], 0, sizeof(now.task[z_])); }
}

/* OUTBOX_RELEASE */
inline outbox_release(d)
{
	set_state(d, retry);
	D.changed = D.changed | (D.again & ALL);
	D.again = 0;
	D.in_doubt = T.in_doubt;
	D.searches = T.searches;
	D.waited = 0
}

/* The worker has a task whose row is gone: queue_note_moved(). */
inline note_gone(d)
{
	T.gone = 1;
	if
	:: T.used && T.state == KAPTURE_TASK_SEND && !T.requested ->
		enter_place(d);
		T.state = KAPTURE_TASK_RELEASE;
		note_place(d, ON_LEAVE);
		outbox_release(d);
		clear_task(d)
	:: else
	fi
}

/* Does a row wait for this customer?  Then it may take that over: OUTBOX_REPORT_AT. */
inline is_wanted(customer_id)
{
	ok_ = false;
	for (i_ : 0 .. DELIVERIES - 1) {
		ok_ = ok_ || (db.delivery[i_].used && db.delivery[i_].key != 0 && db.delivery[i_].waits_for == customer_id)
	}
	skip
}

/* moves_report_deleted(): the deletion of the row with this key, and of this customer if it is known. */
inline report_deleted(k, customer_id)
{
#if ON_DELETE
	c_ = (customer_id != 0 -> customer_id : db.known[k].customer);
	is_wanted(c_);
#ifdef FAULT_WANTED_NOT_REPORTED
	c_ = (ok_ -> 0 : c_);
#endif
	find_delivery(k);
	if
	:: c_ != 0 && n_ != NONE ->
		db.delivery[n_].customer = c_;
		db.delivery[n_].stood_back = db.delivery[n_].stood_back || (ok_ && db.delivery[n_].state != sending)
	:: c_ != 0 && n_ == NONE ->
		new_delivery();
		db.delivery[n_].key = 0;
		set_state(n_, retry);
		db.delivery[n_].customer = c_;
		db.delivery[n_].stood_back = ok_
	:: else
	fi
#else
	skip
#endif
}

/* OUTBOX_LEAVE of a row that is deleted */
inline leave(k, customer_id)
{
	report_deleted(k, customer_id);
	find_delivery(k);
	if
	:: n_ != NONE ->
		db.delivery[n_].key = 0;
		db.delivery[n_].again = 0;
		if
		:: db.delivery[n_].state != sending ->
			set_state(n_, retry);
			db.delivery[n_].judged = 0
		:: db.delivery[n_].state == sending && task[n_].used -> note_gone(n_)
		:: else
		fi
	:: else
	fi;
	gone_ = gone_ || db.known[k].customer != 0;
	if
	:: n_ != NONE -> db.delivery[n_].was = db.known[k].customer
	:: else
	fi;
	clear_known(k)
}

/* STATE_RELEASED */
inline release(at)
{
	set_state(at, retry);
	db.delivery[at].waits_for = 0;
	db.delivery[at].judged = 0
}

/* STATE_RELEASE: who waits for this customer is due. */
inline release_waiting(customer_id)
{
	for (i_ : 0 .. DELIVERIES - 1) {
		if
		:: db.delivery[i_].state == parked &&
			(db.delivery[i_].waits_for == customer_id || db.delivery[i_].waits_for == customer_id + NO_ROWS) ->
			release(i_)
		:: else
		fi
	}
	skip
}

/* STATE_RELEASE_ORPHANED */
inline release_orphaned()
{
	for (j_ : 0 .. DELIVERIES - 1) {
		ok_ = db.delivery[j_].state == parked && db.delivery[j_].waits_for != 0 && db.delivery[j_].waits_for < NO_ROWS;
		for (i_ : 1 .. KEYS) {
			ok_ = ok_ && db.known[i_].customer != db.delivery[j_].waits_for
		}
		if
		:: ok_ -> release(j_)
		:: else
		fi
	}
	skip
}

/* Takes the entry at n_ out of the outbox. */
inline remove_entry(at)
{
	for (i_ : at .. OUTBOX - 2) {
		c_code { now.db.outbox[i_] = now.db.outbox[i_ + 1]; }
	}
	c_code { memset(&now.db.outbox[OUTBOX - 1], 0, sizeof(now.db.outbox[0])); };
	db.noutbox--
}

inline swap_keys(a, b)
{
	for (i_ : 0 .. DELIVERIES - 1) {
		if
		:: db.delivery[i_].key == a -> db.delivery[i_].key = b
		:: db.delivery[i_].key == b -> db.delivery[i_].key = a
		:: else
		fi
	}
	c_code { now.db.known[0] = now.db.known[k_]; now.db.known[k_] = now.db.known[to_]; now.db.known[to_] = now.db.known[0]; };
	clear_known(0)
}

/*
 * kapture_moves_follow(): deliveries get the keys that their rows have by now.  If keys
 * have changed, all changes are entered, under the keys of now.
 */
inline follow()
{
	gone_ = false;
	rekeyed_ = false;
	for (i_ : 0 .. OUTBOX - 1) {
		rekeyed_ = rekeyed_ || db.outbox[i_].op == rekeyed || db.outbox[i_].op == swapped
	}
	j_ = 0;
	do
	:: j_ < OUTBOX && db.outbox[j_].op == deleted ->
		k_ = db.outbox[j_].key;
		to_ = db.outbox[j_].to;
		remove_entry(j_);
#ifndef FAULT_KEY_FOR_ROW
		leave(k_, to_)
#endif
	:: j_ < OUTBOX && (db.outbox[j_].op == rekeyed || db.outbox[j_].op == swapped) ->
		k_ = db.outbox[j_].key;
		to_ = db.outbox[j_].to;
		ok_ = db.outbox[j_].op == swapped;
		remove_entry(j_);
#ifndef FAULT_KEY_FOR_ROW
		swap_keys(k_, to_);
		gone_ = true;
#endif
		wait(to_, 0);
		if
		:: ok_ -> wait(k_, 0)
		:: else
		fi
	:: j_ < OUTBOX && db.outbox[j_].op == written && rekeyed_ ->
		k_ = db.outbox[j_].key;
		to_ = db.outbox[j_].changed;
		remove_entry(j_);
		wait(k_, to_)
	:: j_ < OUTBOX && db.outbox[j_].op == written && !rekeyed_ -> j_++
	:: else -> break
	od;
	if
	:: gone_ -> release_orphaned()
	:: else
	fi
}

/* Attempts are told apart only as far as that matters. */
#if LATE_ANSWERS
#define NEXT(n)		((n) + 1)
#else
#define NEXT(n)		((n) < 2 -> (n) + 1 : 2)
#endif

/* Each change of an entry names the attempt that it belongs to. */
#ifndef FAULT_NO_ATTEMPT
#define IS_ATTEMPT(d, n)	(d.used && d.attempts == (n) && d.state == sending)
#else
#define IS_ATTEMPT(d, n)	(d.used)
#endif

/* OUTBOX_FAIL, with park_, arrived_, unsure_, waits_for_, tries_ */
inline outbox_fail(d)
{
	D.judged = 0;
	if
	:: D.again == 0 && park_ ->
		set_state(d, parked);
		D.judged = PACK(T.value, T.phone, T.email)
	:: else -> set_state(d, retry)
	fi;
	D.changed = (arrived_ -> 0 : D.changed) | (D.again & ALL);
	D.again = 0;
	D.in_doubt = T.in_doubt;
	D.searches = tries_;
	D.waited = 0;
	D.waits_for = waits_for_;
#ifdef FAULT_ID_FORGOTTEN
	D.customer = 0;
#else
	D.customer = keep_;
#endif
	if
	:: unsure_ && D.key != 0 ->
		k_ = D.key;
		doubt_digests(k_)
	:: else
	fi
}

/* OUTBOX_FINISH, OUTBOX_FINISH_REST, OUTBOX_ROW_STATE */
inline outbox_finish(d)
{
	if
	:: T.customer != 0 ->
		db.named[T.customer] = 1;
		if
		:: D.key != 0 && !T.gone ->
			k_ = D.key;
			if
			:: db.known[k_].customer != T.customer -> clear_known(k_)
			:: else
			fi;
			db.known[k_].customer = T.customer;
			if
			:: T.sent & VALUE -> db.known[k_].value = T.value
			:: else
			fi;
			if
			:: T.sent & CONTACT ->
				db.known[k_].phone = T.phone;
				db.known[k_].email = T.email
			:: else
			fi
		:: else
		fi
	:: else
	fi;
#ifdef FAULT_NO_AGAIN
	D.again = 0;
#endif
	if
	:: D.again == 0 -> clear_delivery(d)
	:: else ->
		set_state(d, retry);
		D.changed = D.again & ALL;
		D.again = 0;
		D.customer = 0;
		D.in_doubt = 0;
		D.searches = 0;
		D.waited = 0;
		D.waits_for = 0
	fi
}


/* ---- the task: push/task.c ---- */

inline task_prepare(d, a_step)
{
	ok_ = true;
	if
	:: a_step == KAPTURE_STEP_ADD -> T.brings = ALL
	:: a_step == KAPTURE_STEP_UPDATE -> ok_ = (T.brings != 0)
	:: a_step == KAPTURE_STEP_FIND_PHONE -> ok_ = (D.sent_phone != 0)
	:: a_step == KAPTURE_STEP_FIND_EMAIL -> ok_ = (D.sent_email != 0)
	:: a_step == KAPTURE_STEP_FIND_BOTH -> ok_ = (D.sent_phone != 0 && D.sent_email != 0)
	:: a_step == KAPTURE_STEP_FIND_NAMED -> ok_ = (T.named_id != 0)
	fi;
	if
	:: ok_ ->
		T.state = KAPTURE_TASK_SEND;
		T.step = a_step
	:: else
	fi
}

inline task_done(d)
{
	T.state = KAPTURE_TASK_DONE
}

/* kapture_task_fail(): what it is to be recorded as is in park_ and so on. */
inline task_fail(d, parks)
{
	T.state = KAPTURE_TASK_FAILED;
	park_ = parks;
	arrived_ = false;
	unsure_ = (T.step == KAPTURE_STEP_UPDATE);
	waits_for_ = 0;
	tries_ = 0;
	keep_ = (T.customer == T.had && !T.gone -> 0 : T.customer)
}

inline task_release(d)
{
	T.state = KAPTURE_TASK_RELEASE
}

inline task_end_doubt(d)
{
	T.in_doubt = 0;
	T.searches = 0;
	task_release(d)
}

/* kapture_task_identify() */
inline task_identify(d)
{
	D.sent_phone = T.phone;
	D.sent_email = T.email
}

#define SAME_IDENTITY(d)	(D.sent_phone == T.phone && D.sent_email == T.email)

/* task_news(): what Kapture is not known to have. */
inline task_news(d)
{
	T.brings = T.changed;
	if
	:: T.had != 0 && T.had == T.customer && D.key != 0 && db.known[D.key].customer == T.customer ->
		if
		:: db.known[D.key].value == T.value -> T.brings = T.brings & CONTACT
		:: else
		fi;
		if
		:: db.known[D.key].phone == T.phone && db.known[D.key].email == T.email -> T.brings = T.brings & VALUE
		:: else
		fi
	:: else
	fi
}

inline task_update(d)
{
	task_news(d);
	task_prepare(d, KAPTURE_STEP_UPDATE);
	if
	:: !ok_ -> task_done(d)
	:: else
	fi
}

inline task_link(d, customer_id)
{
	T.customer = customer_id;
	T.changed = T.changed | ALL;
	task_update(d)
}

inline task_search_singly(d)
{
	task_prepare(d, KAPTURE_STEP_FIND_PHONE);
	if
	:: !ok_ -> task_prepare(d, KAPTURE_STEP_FIND_EMAIL)
	:: else
	fi
}

inline task_search(d)
{
	task_prepare(d, KAPTURE_STEP_FIND_BOTH);
	if
	:: !ok_ -> task_search_singly(d)
	:: else
	fi
}

/* The row is no more, which is reported if it had a customer. */
inline task_end_gone(d)
{
	if
	:: ON_DELETE && !T.reported && T.customer != 0 ->
		T.brings = 0;
		T.state = KAPTURE_TASK_SEND;
		T.step = KAPTURE_STEP_DELETED
	:: else -> task_done(d)
	fi
}

inline task_gone(d)
{
	if
	:: T.in_doubt == running -> task_release(d)
	:: T.in_doubt == over && T.customer == 0 && (D.sent_phone != 0 || D.sent_email != 0) ->
		T.asked_first = 1;
		task_search_singly(d)
	:: else -> task_end_gone(d)
	fi
}

/* The Update was refused. */
inline task_stop_seeking(d)
{
	T.seeks = 0;
	task_fail(d, true);
	unsure_ = false
}

#define MAX(a, b)	((a) > (b) -> (a) : (b))

inline task_gone_meanwhile(d)
{
#ifndef FAULT_GONE_SEEKS
	if
	:: T.seeks && T.state == KAPTURE_TASK_SEND -> task_stop_seeking(d)
	:: else
	fi;
#endif
	if
	:: T.state == KAPTURE_TASK_SEND && T.step != KAPTURE_STEP_DELETED &&
		!(T.asked_first && (T.step == KAPTURE_STEP_FIND_PHONE || T.step == KAPTURE_STEP_FIND_EMAIL)) ->
		T.customer = 0;
		task_done(d)
	:: T.state == KAPTURE_TASK_FAILED && T.step != KAPTURE_STEP_DELETED && (T.in_doubt == 0 || park_) ->
		if
		:: T.customer == MAX(T.had, T.kept) -> task_end_gone(d)
		:: else -> task_done(d)
		fi
	:: T.state == KAPTURE_TASK_DONE -> task_end_gone(d)
	:: else
	fi
}

/* kapture_task_plan() */
inline task_plan(d)
{
	enter_place(d);
	T.customer = (T.had != 0 -> T.had : D.customer);
	T.kept = D.customer;
	if
	:: T.gone -> task_gone(d)
	:: !T.gone && T.in_doubt == running -> task_release(d)
	:: !T.gone && T.in_doubt != running && T.customer != 0 -> task_update(d)
#ifdef FAULT_NO_SEARCH
	:: !T.gone && T.in_doubt != running && T.customer == 0 ->
#else
	:: !T.gone && T.in_doubt == 0 && T.customer == 0 ->
#endif
		task_identify(d);
		task_prepare(d, KAPTURE_STEP_ADD)
#ifndef FAULT_NO_SEARCH
	:: !T.gone && T.in_doubt == over && T.customer == 0 ->
		if
		:: D.sent_phone != 0 || D.sent_email != 0 ->
			T.asked_first = 1;
			T.lost = 1;
#ifdef FAULT_PRESENT_PHONE
			task_identify(d);
#endif
			task_search(d)
		:: else -> task_end_doubt(d)
		fi
#endif
	fi;
	note_place(d, ON_PLAN)
}

/* Nobody has it any more. */
inline task_try_again(d, so_often)
{
	T.held_by = 0;
	park_ = (so_often > KAPTURE_SEARCHES);
	tries_ = (park_ -> 0 : so_often)
}

inline task_seek_holder(d)
{
#ifdef FAULT_SEEKS_NOT
	task_fail(d, true)
#else
	D.sent_phone = (T.id & OF_PHONE -> T.phone : 0);
	D.sent_email = (T.id & OF_EMAIL -> T.email : 0);
	T.by_phone = 0;
	T.by_email = 0;
	T.asked_first = 0;
	T.seeks = 1;
	task_search_singly(d);
	if
	:: !ok_ -> task_stop_seeking(d)
	:: else
	fi
#endif
}

inline task_found_holder(d)
{
	task_stop_seeking(d);
	T.held_by = (T.by_phone != 0 && T.by_phone != T.customer -> T.by_phone : (T.by_email != T.customer -> T.by_email : 0));
	if
	:: T.held_by == 0 -> task_try_again(d, T.searches + 1)	/* task_found_nobody() */
	:: else
	fi
}

inline task_searched_for_row(d)
{
	found_ = (T.by_phone -> T.by_phone : T.by_email);
	held_ = (T.by_phone && T.by_email && T.by_phone != T.by_email);	/* different ones */
	ok_ = (T.asked_first && found_ == 0 && !T.added);
	if
	:: ok_ ->
		T.searches++;
		ok_ = T.searches < KAPTURE_SEARCHES
	:: else
	fi;
	if
	:: T.gone && !ok_ ->
		T.customer = (T.asked_first && !held_ -> found_ : 0);
		task_end_gone(d)
	:: !(T.gone && !ok_) && held_ -> task_fail(d, true)
	:: !(T.gone && !ok_) && !held_ && found_ != 0 && T.added ->
		T.customer = found_;
		task_done(d)
	:: !(T.gone && !ok_) && !held_ && found_ == 0 && T.added -> task_fail(d, false)
	:: !(T.gone && !ok_) && !held_ && found_ != 0 && !T.added -> task_link(d, found_)
	:: !held_ && found_ == 0 && !T.added && ok_ ->
#ifndef FAULT_SEARCH_AT_ONCE
		T.in_doubt = DOUBT;	/* a change of the row is not to bring the next search forward */
#endif
		task_release(d)
	:: else ->
		if
		:: T.asked_first && SAME_IDENTITY(d) -> task_prepare(d, KAPTURE_STEP_ADD)
		:: T.asked_first && !SAME_IDENTITY(d) -> task_end_doubt(d)
		:: else -> task_fail(d, false)
		fi
	fi
}

inline task_searched(d)
{
	if
	:: T.seeks -> task_found_holder(d)
	:: else -> task_searched_for_row(d)
	fi
}

inline task_duplicate(d)
{
	if
	:: T.step == KAPTURE_STEP_UPDATE -> task_seek_holder(d)
	:: else ->
		T.asked_first = 0;
#if NAMES_DUPLICATES
		T.named_id = T.id;
		task_prepare(d, KAPTURE_STEP_FIND_NAMED)
#else
		task_search_singly(d)
#endif
	fi
}

inline task_success(d)
{
	ended_ = false;
	if
	:: T.step == KAPTURE_STEP_ADD ->
		T.sent = T.brings;
		T.customer = T.id;
		if
		:: T.id != 0 -> task_done(d)
		:: else ->	/* task_look_up() */
			T.in_doubt = over;
			T.searches = 0;
			T.asked_first = 1;
			T.added = 1;
			task_search(d)
		fi
	:: T.step == KAPTURE_STEP_UPDATE ->
		T.sent = T.brings;
		task_done(d)
	:: T.step == KAPTURE_STEP_DELETED ->
		T.reported = 1;
		task_done(d)
	:: T.step == KAPTURE_STEP_FIND_PHONE ->
		T.by_phone = T.id;
		task_prepare(d, KAPTURE_STEP_FIND_EMAIL);
		ended_ = !ok_
	:: T.step == KAPTURE_STEP_FIND_EMAIL ->
		T.by_email = T.id;
		ended_ = true
	:: T.step == KAPTURE_STEP_FIND_BOTH || T.step == KAPTURE_STEP_FIND_NAMED ->
		T.by_phone = T.id;
		T.by_email = T.id;
		ok_ = false;
		if
		:: T.step == KAPTURE_STEP_FIND_NAMED && T.id == 0 -> task_search_singly(d)
		:: else
		fi;
		ended_ = !ok_
	fi;
	if
	:: ended_ -> task_searched(d)
	:: else
	fi
}

/* kapture_task_answer() */
inline task_answer(d)
{
	enter_place(d);
	answer_ = ON_VERDICT(d);
	T.requested = 0;
	if
	:: T.verdict == KAPTURE_SUCCESS || T.verdict == KAPTURE_NOT_FOUND -> task_success(d)
	:: T.verdict == KAPTURE_PARTLY_FOUND -> task_search_singly(d)
	:: T.verdict == KAPTURE_DUPLICATE -> task_duplicate(d)
	:: T.verdict == KAPTURE_REFUSED ->
		if
		:: T.step == KAPTURE_STEP_ADD -> T.in_doubt = 0
		:: else
		fi;
		task_fail(d, true);
		unsure_ = false
	:: T.verdict == KAPTURE_DENIED ->
		task_fail(d, false);
		unsure_ = false
	:: T.verdict == KAPTURE_HTTP_IN_DOUBT ->
		if
		:: !IS_FIND(T.step) -> T.in_doubt = DOUBT
		:: else
		fi;
		task_fail(d, false)
	fi;
	T.verdict = 0;
	T.id = 0;
	if
	:: T.gone -> task_gone_meanwhile(d)
	:: else
	fi;
	note_place(d, answer_)
}

/* ---- one customer, one row: push/sharing.c ---- */

#define HAS_ADDED(d)	(T.step == KAPTURE_STEP_ADD || T.added)
#define TAKES(d) \
	(T.customer != 0 && !T.gone && T.customer != T.had && T.customer != T.kept && \
	 (T.state == KAPTURE_TASK_DONE || (T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_UPDATE)))

#define REPORTS(i)	(task[i].used && task[i].state == KAPTURE_TASK_SEND && task[i].step == KAPTURE_STEP_DELETED)

#define SAME_CONTACT(r)	(db.row[r].phone == D.sent_phone || (D.sent_email != 0 && db.row[r].email == D.sent_email))

/* May an Update of a deleted row yet be carried out, which was lost?  STATE_DOUBT_GONE */
#ifdef FAULT_LATE_UPDATE_OF_GONE
#define MAY_BE_LATE(i)	false
#else
#define MAY_BE_LATE(i)	(db.delivery[i].used && db.delivery[i].key == 0 && db.delivery[i].in_doubt == running)
#endif

/* Another row has the customer, or has got it: with this phone or email, or none of them any more. */
inline sharing_check_rows(d)
{
	held_ = false;
	late_ = false;
	for (i_ : 0 .. DELIVERIES - 1) {
		late_ = late_ || (i_ != d && MAY_BE_LATE(i_) && !HAS_ADDED(d) &&
			(db.delivery[i_].was == T.customer || db.delivery[i_].customer == T.customer))
	}
	for (i_ : 0 .. ROWS - 1) {
		k_ = db.row[i_].key;
		/* kapture_row names rows that may have it, which are asked */
		ok_ = (db.row[i_].present && db.row[i_].customer == T.customer && db.known[k_].customer == T.customer);
		for (j_ : 0 .. DELIVERIES - 1) {
			if
			:: db.row[i_].present && db.delivery[j_].used && db.delivery[j_].key == db.row[i_].key &&
				db.delivery[j_].customer == T.customer && db.row[i_].key != D.key ->
				ok_ = true;
#ifndef FAULT_HOLDER_NOT_NOTED
				k_ = db.row[i_].key;
				if
				:: db.known[k_].customer != T.customer ->
					clear_known(k_);
					db.known[k_].customer = T.customer
				:: else
				fi
#endif
			:: else
			fi
		}
		if
		:: ok_ && db.row[i_].key != D.key ->
#ifdef FAULT_OLD_FINDING
			held_ = true
#else
			if
			:: SAME_CONTACT(i_) -> held_ = true
			:: else -> adding_ = true
			fi
#endif
		:: else
		fi
	}
	skip
}

/* Another row is just getting the customer, or being added with the task's phone or email. */
#define MAY_STAND_BACK(d)	(!HAS_ADDED(d) && T.sent == 0)

#ifdef FAULT_GONE_IN_FLIGHT
#define IN_FLIGHT_OF_GONE(i)	false
#else
#define IN_FLIGHT_OF_GONE(i)	(task[i].state == KAPTURE_TASK_SEND && (task[i].requested || task[i].step == KAPTURE_STEP_DELETED))
#endif

inline sharing_check_tasks(d)
{
	for (i_ : 0 .. DELIVERIES - 1) {
		if
		:: i_ != d && task[i_].used && task[i_].customer == T.customer && (!task[i_].gone || IN_FLIGHT_OF_GONE(i_)) &&
			(task[i_].state == KAPTURE_TASK_DONE || task[i_].state == KAPTURE_TASK_SEND) ->
#ifdef FAULT_WAITS_FOR_TASK
			held_ = true
#else
			adding_ = true;
			reporting_ = reporting_ || REPORTS(i_)
#endif
		:: i_ != d && MAY_STAND_BACK(d) && task[i_].used && !task[i_].gone &&
			task[i_].state == KAPTURE_TASK_SEND && task[i_].step == KAPTURE_STEP_ADD &&
			(db.delivery[i_].sent_phone == D.sent_phone ||
			 (D.sent_email != 0 && db.delivery[i_].sent_email == D.sent_email)) ->
			adding_ = true
		:: else
		fi
	}
	skip
}

inline sharing_check(d)
{
	adding_ = false;
	reporting_ = false;
	sharing_check_rows(d);
	sharing_check_tasks(d);
	enter_place(d);
	if
	:: late_ ->	/* kapture_task_let_finish() */
		T.customer = 0;
		task_fail(d, false);
		unsure_ = false;
		D.stood_back = 1;
		note_place(d, ON_LET_REPORT)
#ifndef FAULT_YIELD_IN_DOUBT
	:: !late_ && held_ && T.in_doubt != 0 && !SAME_IDENTITY(d) ->	/* kapture_task_yield(): the lost Add is settled */
		T.customer = 0;
		task_end_doubt(d);
		note_place(d, ON_YIELD)
	:: !late_ && held_ && !(T.in_doubt != 0 && !SAME_IDENTITY(d)) ->
#else
	:: !late_ && held_ ->
#endif
		n_ = T.customer;
		T.customer = 0;
#ifndef FAULT_YIELD_IN_DOUBT
		T.in_doubt = 0;
		T.searches = 0;
#endif
		task_fail(d, true);
		unsure_ = false;
		waits_for_ = n_;
		note_place(d, ON_YIELD)
	:: !late_ && !held_ && adding_ ->	/* kapture_task_stand_back() */
		T.customer = 0;
		task_fail(d, false);
		unsure_ = false;
		D.stood_back = 1;
		note_place(d, (reporting_ -> ON_LET_REPORT : ON_STAND_BACK))
	:: else
	fi
}

#define IS_HELD(d)	(T.state == KAPTURE_TASK_FAILED && T.held_by != 0 && !T.gone)

/* A row has the customer that is in the way of the task's Update: does Kapture have other ones of that by now? */
inline sharing_check_held(d)
{
	is_ = NONE;
	for (i_ : 0 .. ROWS - 1) {
		k_ = db.row[i_].key;
		ok_ = (db.row[i_].present && db.row[i_].customer == T.held_by && db.known[k_].customer == T.held_by);
		for (j_ : 0 .. DELIVERIES - 1) {
			ok_ = ok_ || (db.row[i_].present && db.delivery[j_].used && db.delivery[j_].key == k_ && db.delivery[j_].customer == T.held_by)
		}
		if
		:: ok_ -> is_ = i_
		:: else
		fi
	}
	if
	:: is_ != NONE ->
		k_ = db.row[is_].key;
		if
#ifndef FAULT_OLD_HOLDER
		:: !SAME_CONTACT(is_) && db.row[is_].customer == T.held_by && db.known[k_].customer == T.held_by &&
			db.known[k_].phone == db.row[is_].phone && db.known[k_].email == db.row[is_].email ->
			enter_place(d);
			task_try_again(d, 0);
			note_place(d, ON_TRY_AGAIN)
#endif
		:: else ->	/* kapture_task_wait() */
			if
			:: db.known[k_].customer != T.held_by ->
				clear_known(k_);
				db.known[k_].customer = T.held_by
			:: else
			fi;
			waits_for_ = T.held_by
		fi
	:: else
#ifndef FAULT_HOLDER_TO_COME
		-> waits_for_ = T.held_by + NO_ROWS;	/* a row may be just getting it */
#ifndef FAULT_DELETED_HOLDER
		ok_ = db.named[T.held_by];
		for (i_ : 0 .. ROWS - 1) {
			ok_ = ok_ && !(db.row[i_].present && db.row[i_].customer == T.held_by)
		}
		if
		:: ok_ ->	/* kapture_task_hope(): it was that of a row which is deleted */
			enter_place(d);
			task_try_again(d, T.searches + 1);
			if
			:: !park_ ->
				waits_for_ = 0;
				D.stood_back = (tries_ == KAPTURE_SEARCHES);
				note_place(d, ON_TRY_AGAIN)
			:: else
			fi
		:: else
		fi
#endif
#endif
	fi
}

/* sharing_check_report(): the deletion of a row whose customer another row has is not reported. */
inline sharing_check_report(d)
{
#if ON_DELETE && !defined(FAULT_REPORTS_ALL)
	held_ = false;
	for (i_ : 0 .. ROWS - 1) {
		held_ = held_ || (db.row[i_].present && db.row[i_].customer == T.customer)
	}
	for (i_ : 0 .. DELIVERIES - 1) {
		held_ = held_ || (i_ != d && db.delivery[i_].used && db.delivery[i_].key != 0 && db.delivery[i_].customer == T.customer);
		held_ = held_ || (i_ != d && task[i_].used && !task[i_].gone && task[i_].customer == T.customer &&
			(task[i_].state == KAPTURE_TASK_DONE || task[i_].state == KAPTURE_TASK_SEND))
	}
	if
	:: held_ ->	/* kapture_task_spare() */
		enter_place(d);
		T.customer = 0;
		task_done(d);
		note_place(d, ON_SPARE)
	:: else
	fi
#else
	skip
#endif
}

/* ---- the worker: push/claim.c, send.c, record.c ---- */

/* The row with the delivery's key, as it is now: r_, or NONE. */
inline find_row(d)
{
	r_ = NONE;
	for (i_ : 0 .. ROWS - 1) {
		if
		:: db.row[i_].present && db.row[i_].key == D.key -> r_ = i_
		:: else
		fi
	}
	skip
}

/* Writes the customer's id to the row, and takes in what became of that: kapture_task_written(). */
inline write_id(d, is_locked)
{
	if
	:: T.state != KAPTURE_TASK_RELEASE && !T.gone && T.customer != 0 && T.customer != T.had ->
		find_row(d);
		if
		:: is_locked && T.state == KAPTURE_TASK_DONE ->
			enter_place(d);
			T.had = 0;
			task_fail(d, false);
			arrived_ = true;
			note_place(d, ON_LOCKED)
		:: !is_locked && r_ != NONE ->
			assert(r_ == T.row);	/* the id goes to the row that was read */
			if
			:: db.row[r_].customer == 0 ->
				db.row[r_].customer = T.customer;
				db.named[T.customer] = 1;
				check_ids()
			:: else
			fi
#ifdef FAULT_WRITTEN_NOT_KEPT
			;
			keep_ = 0
#endif
		:: else
		fi
	:: else
	fi
}

/* kapture_task_frees() */
#ifdef FAULT_LINK_FREES_NOT
#define FREES(d)	(!T.gone && T.had != 0 && (T.sent & CONTACT) && T.state == KAPTURE_TASK_DONE)
#else
#define FREES(d)	(!T.gone && T.step == KAPTURE_STEP_UPDATE && (T.sent & CONTACT))
#endif
/* the last Update of a deleted row may have been carried out after its deletion was noted */
#ifdef FAULT_GONE_FREES_NOT
#define FREES_GONE(d)	false
#else
#define FREES_GONE(d)	(T.gone && T.customer != 0 && (T.state == KAPTURE_TASK_DONE || (T.sent & CONTACT)))
#endif

/* kapture_record_settle() */
inline settle(d, is_locked)
{
	write_id(d, is_locked);
	n_ = 0;
	if
	:: T.state == KAPTURE_TASK_DONE ->
		n_ = (FREES(d) || FREES_GONE(d) -> T.customer : 0);
		outbox_finish(d)
	:: T.state == KAPTURE_TASK_FAILED ->
		n_ = ((FREES(d) && arrived_) || FREES_GONE(d) -> T.customer : 0);
		outbox_fail(d)
	:: T.state == KAPTURE_TASK_RELEASE -> outbox_release(d)
	fi;
	if
	:: n_ != 0 -> release_waiting(n_)
	:: else
	fi;
	clear_task(d)
}

/* A claimed delivery becomes a task: claim_read_rows(), claim_plan(). */
inline begin_task(d, keeps_identity)
{
	find_row(d);
	T.used = 1;
	T.attempt = D.attempts;
	T.changed = D.changed;
	T.in_doubt = D.in_doubt;
	T.searches = D.searches;
	if
	:: D.key == 0 || r_ == NONE -> T.gone = 1
	:: else ->
		T.row = r_;
		T.phone = db.row[r_].phone;
		T.email = db.row[r_].email;
		T.value = db.row[r_].value;
		T.had = db.row[r_].customer
	fi;
	if
	:: !keeps_identity && T.had == 0 -> task_identify(d)
	:: else
	fi;
	task_plan(d);
	if
	:: REPORTS(d) -> sharing_check_report(d)
	:: else
	fi;
	if
	:: T.state != KAPTURE_TASK_SEND -> settle(d, false)
	:: else
	fi
}

/* What is claimed is on disk before anything is sent, and all before it. */
inline claim_commits()
{
#if SERVER_CRASHES && !defined(FAULT_LAZY_CLAIM)
	user_commits()
#else
	skip
#endif
}

/* What is recorded need not be on disk. */
inline record_begins()
{
#if SERVER_CRASHES
	if
	:: !is_lazy ->
		is_lazy = 1;
		c_code { now.disk = now.db; }
	:: else
	fi
#else
	skip
#endif
}

/* A customer that was there before. */
inline seed(c, a_phone, an_email)
{
	crm[c].made = 1;
	crm[c].row = NONE;
	crm[c].phone = a_phone;
	crm[c].email = an_email;
	db.named[c] = 1
}

/* Is there room for the first change: a delivery of its row, or a place for one? */
#define IS_ROOM(d) \
	((!db.delivery[d].used && lost[d].step == 0) || (db.delivery[d].used && db.delivery[d].key == db.outbox[0].key))
#if DELIVERIES == 1
#define HAS_ROOM	IS_ROOM(0)
#elif DELIVERIES == 2
#define HAS_ROOM	(IS_ROOM(0) || IS_ROOM(1))
#else
#define HAS_ROOM	(IS_ROOM(0) || IS_ROOM(1) || IS_ROOM(2))
#endif

/* Takes the first change that waits: kapture_outbox_take(), OUTBOX_CLAIM. */
inline claim_change()
{
	k_ = db.outbox[0].key;
	find_delivery(k_);
	c_ = n_;
	ok_ = false;
	if
	:: c_ == NONE ->
		new_delivery();
		c_ = n_;
		db.delivery[c_].key = db.outbox[0].key;
		set_state(c_, sending);
		db.delivery[c_].changed = db.outbox[0].changed;
		db.delivery[c_].attempts = 1
	:: c_ != NONE && db.delivery[c_].state == sending ->
		db.delivery[c_].again = db.delivery[c_].again | db.outbox[0].changed | CHANGED;
		c_ = NONE
	:: else ->
		ok_ = db.delivery[c_].in_doubt != 0 && db.delivery[c_].attempts > 0;
		db.delivery[c_].changed = db.delivery[c_].changed | db.outbox[0].changed;
		db.delivery[c_].attempts = NEXT(db.delivery[c_].attempts);
		set_state(c_, sending);
		db.delivery[c_].waits_for = 0;
		db.delivery[c_].stood_back = 0;
		db.delivery[c_].judged = 0
	fi;
	remove_entry(0);
	if
	:: c_ != NONE -> begin_task(c_, ok_)
	:: else
	fi
}

proctype claimer()
{
end:
	do
	:: d_step { db.noutbox > 0 && (HAS_ROOM || db.outbox[0].op == deleted) ->
#ifdef FAULT_LAZY_CLAIM
			record_begins();
#endif
			follow();
			if
			:: db.noutbox > 0 && HAS_ROOM -> claim_change()
			:: else
			fi;
			claim_commits()
		}
	od
}

/* Takes in the answer to a task's request, and records what it means: record_do(). */
inline record(d, is_locked)
{
	record_begins();
	follow();
	task_answer(d);
#ifndef FAULT_NO_SHARING
	if
	:: TAKES(d) -> sharing_check(d)
	:: !TAKES(d) && IS_HELD(d) -> sharing_check_held(d)
	:: !TAKES(d) && REPORTS(d) -> sharing_check_report(d)
	:: else
	fi;
#endif
	if
	:: T.state != KAPTURE_TASK_SEND -> settle(d, is_locked)
	:: T.state == KAPTURE_TASK_SEND && T.step == KAPTURE_STEP_UPDATE ->
#ifndef FAULT_LINK_NOT_NOTED
		/* whom the row is linked to is known before the customer gets another phone */
		D.customer = T.customer;
		T.kept = T.customer;
		user_commits()
#endif
	:: else
	fi
}

/* Rows that have stood back come again later than what they have made way for. */
#define ACTS(i)		(i != d && db.delivery[i].used && (!db.delivery[i].stood_back || MAY_BE_LATE(i)) && db.delivery[i].state != parked)
#if DELIVERIES == 1
#define OTHERS_ACT	(db.noutbox > 0)
#elif DELIVERIES == 2
#define OTHERS_ACT	(db.noutbox > 0 || ACTS(0) || ACTS(1))
#else
#define OTHERS_ACT	(db.noutbox > 0 || ACTS(0) || ACTS(1) || ACTS(2))
#endif

/* When a request must have been carried out, or never will be: it is no matter with Adds. */
#if LATE_ADDS
#define IS_OVER(d)	(lost[d].step != KAPTURE_STEP_UPDATE && lost[d].step != KAPTURE_STEP_DELETED)
#else
#define IS_OVER(d)	(lost[d].step == 0)
#endif

proctype worker(byte d)
{
end:
	do
	:: d_step { D.used && D.state == retry && D.in_doubt != running && !(D.stood_back && OTHERS_ACT) ->	/* OUTBOX_CLAIM_DUE */
			follow();
			if
			:: D.used && D.state == retry ->
				set_state(d, sending);
				D.attempts = NEXT(D.attempts);
				D.stood_back = 0;
#ifdef FAULT_SEARCH_AT_ONCE
				D.waited = (D.searches > 0);
#endif
				begin_task(d, D.attempts > 1)
			:: else
			fi;
			claim_commits()
		}
	:: d_step { T.used && T.state == KAPTURE_TASK_SEND && !T.requested ->	/* kapture_http_start() */
			T.requested = 1;
			check_report(d)
		}
	:: d_step { T.used && T.verdict != 0 -> record(d, false) }
	:: d_step { T.used && T.verdict != 0 && locks > 0 ->
			locks--;
			record(d, true)
		}
	:: d_step { T.used && T.state == KAPTURE_TASK_SEND && !T.requested && troubles > 0 ->	/* kapture_queue_take_back() */
			troubles--;
			enter_place(d);
			task_release(d);
			note_place(d, ON_TAKE_BACK);
			outbox_release(d);
			clear_task(d)
		}
	:: d_step { D.used && D.in_doubt == running && D.state != sending && IS_OVER(d) ->	/* time passes */
			D.in_doubt = over;
			D.waited = (D.searches > 0)
		}
	od
}

/* The worker is no more; the next one begins: kapture_delivery_recover(). */
inline restart()
{
	for (c_ : 0 .. DELIVERIES - 1) {
		if
		:: task[c_].used && task[c_].requested && task[c_].verdict == 0 -> lose_request(c_)
		:: else
		fi;
#if LATE_ANSWERS
		if
		:: task[c_].used && task[c_].verdict == KAPTURE_SUCCESS && !IS_FIND(task[c_].step) && late_answers > 0 ->
			late_answers--;
			late_of = c_;
			late_attempt = task[c_].attempt
		:: else
		fi;
#endif
		clear_task(c_)
	}
	for (c_ : 0 .. DELIVERIES - 1) {
		if
		:: db.delivery[c_].used && db.delivery[c_].state == sending ->
			set_state(c_, retry);
			db.delivery[c_].changed = db.delivery[c_].changed | (db.delivery[c_].again & ALL);
			db.delivery[c_].again = 0;
			db.delivery[c_].in_doubt = DOUBT;
			db.delivery[c_].searches = 0;
			db.delivery[c_].waited = 0;
			if
			:: db.delivery[c_].key != 0 ->
				k_ = db.delivery[c_].key;
				doubt_digests(k_)
			:: else
			fi
		:: else
		fi
	}
	skip
}

proctype crash()
{
end:
	do
	:: d_step { crashes > 0 ->
			crashes--;
			restart()
		}
#if SERVER_CRASHES
	:: d_step { server_crashes > 0 ->
			server_crashes--;
			if
			:: is_lazy -> c_code { now.db = now.disk; }
			:: else
			fi;
			restart();
			user_commits()
		}
	:: d_step { is_lazy -> user_commits() }
#endif
#if LATE_ANSWERS
	:: d_step { late_of != NONE ->	/* an earlier worker has its answer recorded after all */
			if
			:: IS_ATTEMPT(db.delivery[late_of], late_attempt) ->
				c_ = late_of;
				clear_delivery(c_)
			:: else
			fi;
			late_of = NONE;
			late_attempt = 0
		}
#endif
	od
}

/* Nothing can happen any more: all rows are with Kapture as they are, or parked for what still holds. */
#define SAME_CONTACTS(a, b)	(a.phone == b.phone || (a.email != 0 && a.email == b.email))

inline check_row(r)
{
	k_ = db.row[r].key;
	find_delivery(k_);
	if
	:: n_ == NONE ->
		found_ = db.row[r].customer;
		assert(found_ != 0);
		assert(crm[found_].value == db.row[r].value);
		assert(crm[found_].phone == db.row[r].phone && crm[found_].email == db.row[r].email)
	:: else ->
		assert(db.delivery[n_].state == parked);
		assert(db.delivery[n_].judged == PACK(db.row[r].value, db.row[r].phone, db.row[r].email));
		was_ = db.delivery[n_].waits_for;
		held_ = (was_ > NO_ROWS && SAME_CONTACTS(crm[was_ - NO_ROWS], db.row[r]));
		for (i_ : 0 .. ROWS - 1) {
			held_ = held_ || (was_ != 0 && was_ < NO_ROWS && i_ != r && db.row[i_].present && db.row[i_].customer == was_ &&
				(SAME_CONTACTS(db.row[i_], db.row[r]) || SAME_CONTACTS(crm[was_], db.row[r])))
		}
#if REFUSALS || LATE_ADDS
		held_ = held_ || was_ == 0;
#else
		for (i_ : 1 .. CUSTOMERS) {
			held_ = held_ || (was_ == 0 && crm[i_].made && i_ != db.row[r].customer && SAME_CONTACTS(crm[i_], db.row[r]))
		}
#endif
		assert(held_)	/* nobody waits for a customer that has another phone and email, or that no other row has */
	fi
}

#if KNOWS_DELETED
#define NEED_NOT_KNOW(r)	false
#else
#define NEED_NOT_KNOW(r)	(!db.row[r].present)
#endif

proctype proof()
{
	timeout ->
	d_step {
		assert(db.noutbox == 0);
		for (c_ : 0 .. DELIVERIES - 1) {
			assert(!task[c_].used && lost[c_].step == 0);
			assert(!db.delivery[c_].used || (db.delivery[c_].state == parked && db.delivery[c_].key != 0))
		}
		for (c_ : 0 .. ROWS - 1) {
			if
			:: db.row[c_].present -> check_row(c_)
			:: else
			fi
		}
		for (c_ : 1 .. CUSTOMERS) {
			/* no Add has made a customer that no row knows of, nor, of a deleted one, the history */
			assert(!crm[c_].made || db.named[c_] || NEED_NOT_KNOW(crm[c_].row));
#if ON_DELETE
			/* nor is there one that had a row, and of which nobody has reported that it has none any more */
			ok_ = !db.named[c_] || crm[c_].reported;
			for (i_ : 0 .. ROWS - 1) {
				ok_ = ok_ || (db.row[i_].present && db.row[i_].customer == c_)
			}
			assert(ok_)
#endif
		}
	}
	skip
}

init {
	byte i;

	atomic {
		c_code { atexit(tell_taken); };
#if SEEDED
		seed(1, (SEEDED == 2 -> 6 : 1), (SEEDED == 2 || SEEDED == 3 -> 1 : 0));
#endif
#if SEEDED == 4
		seed(2, 6, 1);
#endif
		for (i : 0 .. ROWS - 1) {
			if
			:: i < ROWS - INSERTS -> insert_row(i, i + 1)
			:: else
			fi;
			run user(i)
		}
		for (i : 0 .. DELIVERIES - 1) {
			run kapture(i);
			run worker(i)
		}
		run claimer();
		run crash();
		run proof();
		i = 0
	}
}
