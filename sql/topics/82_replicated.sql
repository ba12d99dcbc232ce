-- A publication FOR ALL TABLES publishes the extension's tables too, and a subscriber that has the extension counts for
-- itself: rows of what one server computes or is set up with are left out where they arrive. What decides who may read,
-- and what is watched, is taken over; see docs/operating.md.

create function busymate_stats_internal.leave_out_replicated() returns trigger
    language c as 'MODULE_PATHNAME', 'leave_out_replicated_wrapper';
comment on function busymate_stats_internal.leave_out_replicated() is
    'Trigger: leaves out rows that arrive by logical replication.';
create function busymate_stats_internal.take_over_replicated() returns trigger
    language c as 'MODULE_PATHNAME', 'take_over_replicated_wrapper';
comment on function busymate_stats_internal.take_over_replicated() is
    'Trigger: a row that arrives by logical replication replaces the one with its key, and leaves the built-in roles alone.';

do $replicated$
declare
    member pg_catalog.regclass;
    deed text;
begin
    for member, deed in
        select c.oid, case when c.relnamespace = 'busymate_stats'::pg_catalog.regnamespace then 'take_over' else 'leave_out' end
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d
            on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e
            on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.refobjid
         where e.extname = 'busymate_stats' and c.relkind = 'r'
         order by c.oid
    loop
        execute pg_catalog.format('create trigger replicated before insert or update or delete on %s
                                       for each row execute function busymate_stats_internal.%I()',
                                  member, deed || '_replicated');
        execute pg_catalog.format('alter table %s enable replica trigger replicated', member);
    end loop;
end
$replicated$;
