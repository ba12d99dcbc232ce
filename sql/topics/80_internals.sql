-- Nobody but the owner reads, changes or empties the extension's own means, whatever they have been granted: scripts that
-- GRANT ALL ON ALL TABLES IN SCHEMA are common. The tables that users may edit have policies of their own.

create function busymate_stats_internal.guard_truncate_owner() returns trigger
    language c as 'MODULE_PATHNAME', 'guard_truncate_owner_wrapper';
comment on function busymate_stats_internal.guard_truncate_owner() is
    'Trigger: TRUNCATE, which no policy stops, is for the table''s owner.';

do $internals$
declare
    member pg_catalog.regclass;
begin
    for member in
        select c.oid
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d
            on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e
            on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.refobjid
         where e.extname = 'busymate_stats' and c.relkind = 'r'
         order by c.oid
    loop
        execute pg_catalog.format('alter table %s enable row level security', member);
        if not exists (select from pg_catalog.pg_trigger t where t.tgrelid = member and t.tgname = 'guard_truncate') then
            execute pg_catalog.format('create trigger guard_truncate before truncate on %s
                                           for each statement execute function busymate_stats_internal.guard_truncate_owner()',
                                      member);
        end if;
    end loop;
end
$internals$;
