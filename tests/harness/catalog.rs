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

/// All that the catalogs say of the extension, as PostgreSQL writes it back, [`privileges`] aside: two databases of one server
/// in which this is the same have the same extension. The order of columns is left out: ALTER TABLE adds one at the end.
pub fn definitions(client: &mut Client) -> Vec<String> {
    let relations = member_relations();
    let functions = member_functions();
    let mut found = Vec::new();
    for query in [
        "select format('extension %s in %s, of %s, dumps %s %s', extversion, extnamespace::regnamespace, extowner::regrole,
                       extconfig::regclass[], extcondition)
           from pg_extension where extname = 'busymate_stats'"
            .to_owned(),
        format!(
            "select format('%s, of %s: %s', pg_describe_object(m.classid, m.objid, 0), s.owner::regrole,
                           obj_description(m.objid, m.classid::regclass::name))
               from ({MEMBERS}) m
               left join lateral (
                    select relowner from pg_class where m.classid = 'pg_class'::regclass and oid = m.objid
                    union all select proowner from pg_proc where m.classid = 'pg_proc'::regclass and oid = m.objid
                    union all select nspowner from pg_namespace where m.classid = 'pg_namespace'::regclass and oid = m.objid
                    union all select typowner from pg_type where m.classid = 'pg_type'::regclass and oid = m.objid
                    union all select evtowner from pg_event_trigger
                               where m.classid = 'pg_event_trigger'::regclass and oid = m.objid
               ) s(owner) on true"
        ),
        format!(
            "select format('relation %s: %s', oid::regclass,
                           (relkind, relpersistence, reloptions, relrowsecurity, relforcerowsecurity, relreplident))
               from pg_class where oid in ({relations})"
        ),
        format!(
            "select format('column %s.%s: %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
                           (a.attnotnull, a.attcollation::regcollation, a.attidentity, a.attgenerated, a.attstorage,
                            pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum)))
               from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where a.attrelid in ({relations}) and a.attnum > 0 and not a.attisdropped"
        ),
        format!(
            "select format('constraint %s of %s: %s %s', conname, conrelid::regclass, pg_get_constraintdef(oid), convalidated)
               from pg_constraint where conrelid in ({relations})"
        ),
        format!(
            "select format('index %s %s', pg_get_indexdef(indexrelid),
                           (indisprimary, indisreplident, indisclustered, indisvalid))
               from pg_index where indrelid in ({relations})"
        ),
        format!(
            "select format('trigger %s %s', pg_get_triggerdef(oid), (tgenabled, obj_description(oid, 'pg_trigger')))
               from pg_trigger where tgrelid in ({relations}) and not tgisinternal"
        ),
        format!(
            "select format('policy %s of %s: %s', polname, polrelid::regclass,
                           (polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid),
                            pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy')))
               from pg_policy where polrelid in ({relations})"
        ),
        // A view's rule is read below.
        format!(
            "select format('rule of %s: %s %s', ev_class::regclass, pg_get_ruledef(oid), ev_enabled)
               from pg_rewrite where ev_class in ({relations}) and rulename <> '_RETURN'"
        ),
        format!("select pg_get_functiondef(oid) from pg_proc where oid in ({functions})"),
        "select format('event trigger %s: %s', evtname, (evtevent, evtfoid::regprocedure, evtenabled, evttags))
           from pg_event_trigger"
            .to_owned(),
        format!(
            "select format('initially, on %s: %s for %s %s', pg_describe_object(i.classoid, i.objoid, i.objsubid),
                           held.privilege_type, held.grantee::regrole, held.is_grantable)
               from pg_init_privs i join ({MEMBERS}) m on m.classid = i.classoid and m.objid = i.objoid
               left join pg_proc f on m.classid = 'pg_proc'::regclass and f.oid = m.objid,
                    aclexplode(i.initprivs) held
              -- pg_upgrade does not note what every function has.
              where not coalesce(i.initprivs @> acldefault('f', f.proowner) and i.initprivs <@ acldefault('f', f.proowner), false)"
        ),
    ] {
        found.extend(list(client, &query));
    }
    for view in
        list(client, &format!("select oid from pg_class where oid in ({relations}) and relkind = 'v'"))
    {
        found.push(format!("view {view}", view = read_back(client, &view)));
    }
    found
}

/// A view's definition as it is written back once more: the first time may put in a cast or a pair of parentheses.
fn read_back(client: &mut Client, oid: &str) -> String {
    let definition = |of: &str| format!("select {of}::regclass || ': ' || pg_get_viewdef({of}::regclass)");
    let [first] = list(client, &definition(oid)).try_into().unwrap();
    let (name, query) = first.split_once(": ").unwrap();
    with_planted(client, &format!("create temporary view read_back as {query}"), |client| {
        let row = client.query_one("select pg_get_viewdef('read_back'::regclass)", &[]).unwrap();
        format!("{name}: {}", row.get::<_, String>(0))
    })
}

/// Every row of every table of the extension that is configuration, and who may do what.
pub fn configuration(client: &mut Client) -> Vec<String> {
    let mut rows = Vec::new();
    for table in [
        "busymate_stats.components",
        "busymate_stats.revoked_tokens",
        "busymate_stats.role_capabilities",
        "busymate_stats.roles",
        "busymate_stats.user_roles",
        "busymate_stats_internal.attachment",
        "busymate_stats_internal.publications",
    ] {
        let query = format!("select '{table} ' || to_jsonb(t)::text from {table} t");
        rows.extend(list(client, &query));
    }
    rows.extend(privileges(client));
    rows
}
