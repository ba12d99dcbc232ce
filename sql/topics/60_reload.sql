-- PostgREST keeps a copy of the schema. It reads it anew when told so, once the transaction has committed. Not where Citus is
-- installed: it commits DDL in two phases, and PostgreSQL prepares no transaction that has notified.

create function busymate_stats_internal.reload_before_drop() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
begin
    -- An event trigger of an extension is not there any more at the end of that extension's own DROP: so it fires
    -- before, for whatever extension is dropped, and whoever drops it must not be held up.
    perform pg_notify('pgrst', 'reload schema') where not exists (select from pg_extension where extname = 'citus');
exception when others then
    null;
end
$$;
comment on function busymate_stats_internal.reload_before_drop() is
    'Event trigger: tells PostgREST to read the schema anew once a DROP EXTENSION has committed.';

create event trigger busymate_stats_reload on ddl_command_start
    when tag in ('DROP EXTENSION')
    execute function busymate_stats_internal.reload_before_drop();
-- PostgREST reads the schema whatever session_replication_role was in force.
alter event trigger busymate_stats_reload enable always;
comment on event trigger busymate_stats_reload is
    'Tells PostgREST to read the schema anew once a DROP EXTENSION has committed.';
