-- What must not be there yet, and who may have made the schema.

-- CREATE EXTENSION puts the extension's schema into the search path, and PostgreSQL prefers an operator or a function
-- there whose arguments match better than its own.
set local search_path = pg_catalog, pg_temp;

do $preflight$
declare
    taken text;
    moves text;
    schema_owner name;
    strangers text;
begin
    if pg_catalog.getdatabaseencoding() not in ('UTF8', 'SQL_ASCII') then
        raise exception using
            errcode = 'feature_not_supported',
            message = pg_catalog.format('busymate_stats cannot be installed in a database with encoding %s',
                                        pg_catalog.getdatabaseencoding()),
            hint = 'Snapshots are JSON. Create the database with ENCODING ''UTF8''.';
    end if;

    -- A schema that was there before CREATE EXTENSION: its owner may drop what is in it, and a role that may create in
    -- it, or has, may leave what is called in place of something of ours.
    select r.rolname into schema_owner
      from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
     where n.nspname = 'busymate_stats' and not r.rolsuper;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('schema "busymate_stats" belongs to role "%s", which is not a superuser', schema_owner),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;
    select pg_catalog.string_agg(distinct case held.grantee when 0 then 'PUBLIC' else pg_catalog.format('"%s"', r.rolname) end, ', ')
      into strangers
      from pg_catalog.pg_namespace n
     cross join lateral pg_catalog.aclexplode(n.nspacl) held
      left join pg_catalog.pg_roles r on r.oid = held.grantee
     where n.nspname = 'busymate_stats' and held.privilege_type = 'CREATE' and not coalesce(r.rolsuper, false)
       -- Not what ALTER DEFAULT PRIVILEGES has given a moment ago, to a schema that CREATE EXTENSION has made itself.
       and pg_catalog.age(n.xmin) > 0;
    if strangers is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('others may create objects in schema "busymate_stats": %s', strangers),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;
    select pg_catalog.string_agg(object.what, ', ' order by object.what) into strangers
      from (select pg_catalog.pg_describe_object(d.classid, d.objid, 0) as what
              from pg_catalog.pg_depend d
              join pg_catalog.pg_namespace n on n.oid = d.refobjid and n.nspname = 'busymate_stats'
             where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.deptype = 'n'
               -- The extension itself is there by now.
               and not exists (select from pg_catalog.pg_extension e
                                where d.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass and e.oid = d.objid
                                  and e.extname = 'busymate_stats')
             order by 1 limit 5) object;
    if strangers is not null then
        raise exception using
            errcode = 'duplicate_object',
            message = 'schema "busymate_stats" is not empty',
            detail = pg_catalog.format('It holds %s.', strangers),
            hint = 'Run DROP SCHEMA busymate_stats CASCADE; CREATE EXTENSION makes it anew.';
    end if;

    if exists (select from pg_catalog.pg_namespace n where n.nspname = 'busymate_stats_internal') then
        raise exception using
            errcode = 'duplicate_schema',
            message = 'schema "busymate_stats_internal" is there already',
            hint = 'Run DROP SCHEMA busymate_stats_internal CASCADE; CREATE EXTENSION makes it anew.';
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

create schema busymate_stats_internal;
comment on schema busymate_stats_internal is
    'What busymate_stats itself uses: state, look-ups, triggers'' functions. Nobody is granted anything here.';
