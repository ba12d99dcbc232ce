//! What the catalogs say of the extension.

use postgres::Client;

/// The extension's member objects: `classid`, `objid`.
pub const MEMBERS: &str = "
    select d.classid, d.objid
      from pg_depend d join pg_extension e on e.oid = d.refobjid
     where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and e.extname = 'busymate_stats'
       and not exists (select from pg_type t
                        where d.classid = 'pg_type'::regclass and t.oid = d.objid and (t.typrelid <> 0 or t.typelem <> 0))";

/// The extension's member relations: `objid`.
pub fn member_relations() -> String {
    format!("select objid from ({MEMBERS}) m where classid = 'pg_class'::regclass")
}

/// The extension's member functions: `objid`.
pub fn member_functions() -> String {
    format!("select objid from ({MEMBERS}) m where classid = 'pg_proc'::regclass")
}

/// The first column of a query, as text, in order. Nothing but `pg_catalog` is named without its schema.
#[track_caller]
pub fn list(client: &mut Client, query: &str) -> Vec<String> {
    let sql = format!("select listed::text from ({query}) q (listed) order by listed::text collate \"C\"");
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("set local search_path = pg_catalog").unwrap();
    let rows = transaction.query(&sql, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}"));
    transaction.commit().unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Runs `work` on a database that `statements` have changed, and takes them back.
pub fn with_planted<T>(client: &mut Client, statements: &str, work: impl FnOnce(&mut Client) -> T) -> T {
    client.batch_execute(&format!("begin; {statements}")).unwrap();
    let result = work(client);
    client.batch_execute("rollback").unwrap();
    result
}

/// Who may do what with the schema and the members: `object grantee privilege`, the owner's own left out.
pub fn privileges(client: &mut Client) -> Vec<String> {
    let members = MEMBERS;
    list(
        client,
        &format!(
            "with object (name, owner, acl) as (
                 select p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
                   from pg_proc p join ({members}) m on m.objid = p.oid and m.classid = 'pg_proc'::regclass
                 union all
                 select c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
                   from pg_class c join ({members}) m on m.objid = c.oid and m.classid = 'pg_class'::regclass
                 union all
                 select a.attrelid::regclass || '.' || a.attname, c.relowner, a.attacl
                   from pg_attribute a join pg_class c on c.oid = a.attrelid
                   join ({members}) m on m.objid = c.oid and m.classid = 'pg_class'::regclass
                  where a.attacl is not null
                 union all
                 select 'schema ' || n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
                   from pg_namespace n where n.nspname in ('busymate_stats', 'busymate_stats_internal'))
             select format('%s %s %s%s', name,
                           case held.grantee when 0 then 'PUBLIC' else held.grantee::regrole::text end,
                           held.privilege_type, case when held.is_grantable then ' grantable' end)
               from object, aclexplode(acl) held where held.grantee <> owner"
        ),
    )
}
