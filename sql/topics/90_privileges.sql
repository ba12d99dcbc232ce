-- Nobody but the owner, whatever ALTER DEFAULT PRIVILEGES has handed out a moment ago (Supabase's gives anon and
-- authenticated everything on new tables, TRUNCATE too). What grant_api() gives later is an ordinary grant: one made
-- here would become the extension's initial privilege, and a DROP ROLE would then break every dump.

do $privileges$
declare
    statement text;
begin
    for statement in
        with member as (
            select d.classid, d.objid
              from pg_catalog.pg_depend d
              join pg_catalog.pg_extension e on e.oid = d.refobjid
             where d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.deptype = 'e'
               and e.extname = 'busymate_stats'
        ),
        object as (
            select 'routine ' || p.oid::pg_catalog.regprocedure::text as name, p.proowner as owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
              from pg_catalog.pg_proc p join member m on m.objid = p.oid
             where m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            union all
            select 'table ' || c.oid::pg_catalog.regclass::text, c.relowner,
                   coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))
              from pg_catalog.pg_class c join member m on m.objid = c.oid
             where m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            union all
            -- Everybody may use a type, unless told otherwise.
            select 'type ' || t.oid::pg_catalog.regtype::text, t.typowner,
                   coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
              from pg_catalog.pg_type t join member m on m.objid = t.oid
             where m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and t.typtype = 'd'
            union all
            -- Made for us a moment ago, with the same defaults. One is a member.
            select 'schema ' || n.nspname, n.nspowner,
                   coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
              from pg_catalog.pg_namespace n
             where n.nspname in ('busymate_stats', 'busymate_stats_internal')
        )
        select pg_catalog.format('revoke all on %s from %s cascade', object.name,
                                 case held.grantee when 0 then 'public' else held.grantee::pg_catalog.regrole::text end)
          from object, lateral pg_catalog.aclexplode(object.acl) held
         where held.grantee <> object.owner
         group by object.name, held.grantee
    loop
        execute statement;
    end loop;
end
$privileges$;

grant execute on function public.has_capability(text, text) to public;

do $notice$
begin
    if not busymate_stats_internal.session_sees_notices() then
        return;
    end if;
    -- CREATE EXTENSION holds back what is below a warning, until its end.
    perform pg_catalog.set_config('client_min_messages', 'notice', true);
    raise notice using
        message = 'busymate_stats is installed, and nobody but its owner may use it yet',
        hint = 'Run SELECT busymate_stats.create_fleet_tables() or busymate_stats.attach(…), SELECT busymate_stats.grant_api(''authenticated''), and SELECT busymate_stats.assign_role(''<sub>'', ''viewer'').';
    if not (pg_catalog.current_setting('busymate_stats.launcher_state')::pg_catalog.jsonb ->> 'preloaded')::boolean then
        raise notice using
            message = 'busymate_stats is not in shared_preload_libraries, so nothing refreshes service_stats by itself',
            hint = 'Add it to shared_preload_libraries and restart the server, or schedule SELECT busymate_stats.refresh_stats() with pg_cron.';
    end if;
end
$notice$;

select busymate_stats_internal.announce();

select pg_catalog.pg_notify('pgrst', 'reload schema')
 where not exists (select from pg_catalog.pg_extension where extname operator(pg_catalog.=) 'citus');
