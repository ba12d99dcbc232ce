-- Triggers that do not fire as the extension made them to. A data-only restore with --disable-triggers ends with ENABLE
-- TRIGGER ALL: what fired always fires no more for what replication applies, so that sessions keep what was revoked.

create view busymate_stats_internal.altered_triggers with (security_invoker = true) as
    select t.tgrelid::regclass as relation, t.tgname as name, wanted.state, t.tgenabled as found
      from pg_trigger t
      join pg_proc f on f.oid = t.tgfoid
      join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
      join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
     cross join lateral (
         select case when f.proname in ('grants_changed', 'stamp_change', 'capture_change', 'frozen_change', 'roster_change') then 'A'::"char"
                    when f.proname in ('leave_out_replicated', 'take_over_replicated') then 'R'::"char"
                     else 'O'::"char" end as state) wanted
     where e.extname = 'busymate_stats' and not t.tgisinternal and t.tgenabled <> wanted.state;
comment on view busymate_stats_internal.altered_triggers is
    'The extension''s triggers that have been disabled, or fire at other times than it made them to: repair() puts them right.';
comment on column busymate_stats_internal.altered_triggers.relation is 'The table.';
comment on column busymate_stats_internal.altered_triggers.name is 'The trigger.';
comment on column busymate_stats_internal.altered_triggers.state is 'What it should be, as in pg_trigger.tgenabled: A fires always, O not for what replication applies, R for that alone.';
comment on column busymate_stats_internal.altered_triggers.found is 'What it is.';

create function busymate_stats.repair() returns setof text
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    altered record;
    attached busymate_stats_internal.attachment;
begin
    perform busymate_stats_internal.require_matching_version();
    for altered in
        select a.relation, a.name, a.state from busymate_stats_internal.altered_triggers a order by a.relation::text, a.name
    loop
        -- A partition's follows from that of its parent.
        execute format('alter table %s enable %s trigger %I', altered.relation,
                       case altered.state when 'A' then 'always' when 'R' then 'replica' else '' end, altered.name);
        return query select format('trigger %s on table %s fires %s', quote_ident(altered.name), altered.relation,
                                   case altered.state when 'A' then 'always' when 'R' then 'for replicated writes'
                                                             else 'for ordinary writes' end);
    end loop;
    -- The trigger that writes down the owners did not fire either, and those of another server may be others here.
    select * into attached from busymate_stats_internal.attachment;
    if found then
        update busymate_stats_internal.attachment a
           set entries_owner = entries.relowner, devices_owner = devices.relowner
          from pg_class entries, pg_class devices
         where entries.oid = a.entries and devices.oid = a.devices
           and (a.entries_owner, a.devices_owner) is distinct from (entries.relowner, devices.relowner)
           and pg_has_role(entries.relowner, 'usage') and pg_has_role(devices.relowner, 'usage');
        if found then
            return query select format('tables %s and %s are read as their owners of today', attached.entries, attached.devices);
        end if;
    end if;
end
$$;
comment on function busymate_stats.repair() is
    'Enables the extension''s triggers as it made them, after a data-only restore for example, and says what it has changed.';
