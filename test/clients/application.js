// Writes customers as applications do: through Sequelize and through pg, with
// many connections.  Usage: node application.js NAME FIRST_PHONE
// Where to connect is in PGHOST, PGPORT, PGDATABASE and PGUSER.  POOLED=1: a
// pooler hands out connections a transaction at a time, so that what belongs to
// a session cannot be used (named prepared statements).
import pg from 'pg';
import { Sequelize, DataTypes } from 'sequelize';
import assert from 'node:assert/strict';

const name = process.argv[2];
let phone = Number(process.argv[3]);
const nextPhone = () => String(phone++);
const pooled = process.env.POOLED === '1';

const sequelize = new Sequelize(process.env.PGDATABASE, process.env.PGUSER, null, {
	dialect: 'postgres', host: process.env.PGHOST, port: process.env.PGPORT, logging: false, pool: { max: 8 }
});
const Customer = sequelize.define('Customer', {
	id: { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true },
	customerName: { type: DataTypes.TEXT, field: 'customer_name' },
	phone: { type: DataTypes.TEXT, unique: true },
	emailId: { type: DataTypes.TEXT, field: 'email_id' },
	city: DataTypes.TEXT,
	note: DataTypes.TEXT,
	kaptureCustomerId: { type: DataTypes.BIGINT, field: 'kapture_customer_id' }
}, { tableName: 'customers', timestamps: false });

const customer = (what) => ({ customerName: `${name} ${what}`, phone: nextPhone() });

// Waits until the worker has written the id back, by what an application sees.
async function withId(one) {
	while ((await one.reload()).kaptureCustomerId === null)
		await new Promise((resolve) => setTimeout(resolve, 20));
	return one;
}

async function throughSequelize() {
	const one = await Customer.create(customer('created'));
	await one.update({ city: 'Pune' });
	await withId(one);
	await one.update({ city: 'Delhi', note: 'not mapped' });
	await one.update({ note: 'still not mapped' });

	await Customer.bulkCreate(Array.from({ length: 200 }, (_, i) => customer(`bulk ${i}`)));
	const twice = customer('on conflict');
	await Customer.bulkCreate([twice]);
	await Customer.bulkCreate([{ ...twice, city: 'Chennai' }],
		{ updateOnDuplicate: ['city'], conflictAttributes: ['phone'] });
	await Customer.update({ city: 'Mysore' }, { where: { customerName: `${name} bulk 7` } });
	const [, created] = await Customer.findOrCreate({ where: { phone: nextPhone() }, defaults: { customerName: `${name} found` } });
	assert.equal(created, true);

	// rolled back: by an error, by hand, and to a savepoint
	await assert.rejects(sequelize.transaction(async (transaction) => {
		await Customer.bulkCreate(Array.from({ length: 50 }, () => customer('rolled back')), { transaction });
		throw new Error('changed our mind');
	}), /changed our mind/);
	const byHand = await sequelize.transaction();
	await Customer.create(customer('rolled back'), { transaction: byHand });
	await Customer.update({ city: 'Nowhere' }, { where: { customerName: `${name} bulk 8` }, transaction: byHand });
	await byHand.rollback();
	await sequelize.transaction(async (transaction) => {
		await Customer.create(customer('outer'), { transaction });
		await assert.rejects(sequelize.transaction({ transaction }, async (inner) => {
			await Customer.create(customer('rolled back'), { transaction: inner });
			await sequelize.query('SELECT 1 / 0', { transaction: inner });
		}), /division by zero/);
		const gone = await Customer.create(customer('rolled back'), { transaction });
		await gone.destroy({ transaction });
		await Customer.create(customer('outer'), { transaction });
	});

	// a load whose rows Kapture has already: not captured, in this transaction only
	await withId(await Customer.findOne({ where: { customerName: `${name} bulk 9` } }));
	await sequelize.transaction(async (transaction) => {
		await sequelize.query('SET LOCAL kapture_sync.capture = off', { transaction });
		await Customer.update({ city: 'Unsaid' }, { where: { customerName: `${name} bulk 9` }, transaction });
	});
}

async function throughPg() {
	const pool = new pg.Pool({ max: 8 });
	const insert = (who) => pool.query({ name: pooled ? undefined : 'insert customer',
		text: 'INSERT INTO customers (customer_name, phone) VALUES ($1, $2) RETURNING id', values: [`${name} ${who}`, nextPhone()] });

	await Promise.all(Array.from({ length: 16 }, async (_, session) => {
		for (let i = 0; i < 10; i++) {
			const { rows: [{ id }] } = await insert(`pg ${session} ${i}`);
			const client = await pool.connect();
			await client.query('BEGIN');
			await client.query('UPDATE customers SET city = $1 WHERE id = $2', [`City ${i}`, id]);
			await client.query('INSERT INTO customers (customer_name, phone) VALUES ($1, $2)',
				[`${name} rolled back`, nextPhone()].map((value) => i % 3 ? value.replace('rolled back', 'kept') : value));
			await client.query(i % 3 ? 'COMMIT' : 'ROLLBACK');
			client.release();
		}
	}));
	await pool.end();
}

await throughSequelize();
await throughPg();
await sequelize.close();
