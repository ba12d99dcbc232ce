-- What must not be there yet, and who may have made the schema.

do $preflight$
declare
    taken text;
    moves text;
    schema_owner name;
begin
    if pg_catalog.getdatabaseencoding() not in ('UTF8', 'SQL_ASCII') then
        raise exception using
            errcode = 'feature_not_supported',
            message = pg_catalog.format('busymate_stats cannot be installed in a database with encoding %s',
                                        pg_catalog.getdatabaseencoding()),
            hint = 'Snapshots are JSON. Create the database with ENCODING ''UTF8''.';
    end if;

    -- Whoever owns the schema may drop what is in it.
    select r.rolname into schema_owner
      from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
     where n.nspname = 'busymate_stats' and not r.rolsuper;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('schema "busymate_stats" belongs to role "%s", who is no superuser', schema_owner),
            hint = 'Run ALTER SCHEMA busymate_stats OWNER TO CURRENT_USER, or drop the schema.';
    end if;

    select pg_catalog.string_agg(found.what, ', ' order by found.what),
           pg_catalog.string_agg(found.move, ' ' order by found.what)
      into taken, moves
      from (
        select 'function ' || p.oid::pg_catalog.regprocedure::text as what,
               pg_catalog.format('ALTER %s public.%I(%s) RENAME TO %I;',
                                 case p.prokind when 'p' then 'PROCEDURE' when 'a' then 'AGGREGATE' else 'FUNCTION' end,
                                 p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid),
                                 'old_' || p.proname) as move
          from pg_catalog.pg_proc p
          join (values ('get_stats', ''), ('has_capability', 'text, text'), ('mcp', 'jsonb'), ('mcp', ''),
                       ('report_status', 'jsonb')) ours(name, arguments)
            on ours.name = p.proname and ours.arguments = pg_catalog.oidvectortypes(p.proargtypes)
         where p.pronamespace = 'public'::pg_catalog.regnamespace
        union all
        select 'relation ' || pg_catalog.format('public.%I', c.relname),
               pg_catalog.format('ALTER %s public.%I RENAME TO %I;',
                                 case c.relkind when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW'
                                                when 'f' then 'FOREIGN TABLE' when 'S' then 'SEQUENCE'
                                                when 'i' then 'INDEX' when 'I' then 'INDEX'
                                                when 'c' then 'TYPE' else 'TABLE' end,
                                 c.relname, 'old_' || c.relname)
          from pg_catalog.pg_class c
         where c.relnamespace = 'public'::pg_catalog.regnamespace
           and c.relname in ('service_stats', 'service_status')
      ) found;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_object',
            message = 'busymate_stats cannot be installed beside ' || taken,
            detail = 'Policies, views and grants follow what is renamed.',
            hint = 'Move it out of the way: ' || moves
                   || ' README, "Replacing a hand-written feed", has the steps after that.';
    end if;
end
$preflight$;
