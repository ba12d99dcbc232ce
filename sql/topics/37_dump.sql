-- Dumps by a role that is no superuser: pg_dump locks and reads every table that it dumps, those of the extension's
-- configuration too.

create function busymate_stats.grant_dump(role name) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
declare
    exempt boolean;
    dumped record;
    sequence regclass;
begin
    select r.rolsuper or r.rolbypassrls into exempt from pg_roles r where r.rolname = role;
    if not found then
        raise exception using
            errcode = 'undefined_object',
            message = format('role "%s" does not exist', role),
            hint = format('Make it first: CREATE ROLE %I LOGIN.', role);
    end if;
    execute format('grant usage on schema busymate_stats, busymate_stats_internal to %I', role);
    for dumped in
        with recursive fleet as (
            select fleet.oid
              from busymate_stats_internal.attachment a, unnest(array[a.entries, a.devices]) fleet (oid)
            union
            select i.inhrelid from fleet join pg_inherits i on i.inhparent = fleet.oid
        ),
        part as (
            select unnest(e.extconfig) as oid from pg_extension e where e.extname = 'busymate_stats'
            union
            select fleet.oid from fleet
        )
        select c.oid, c.oid::regclass as name, c.relrowsecurity,
               (select p.polroles from pg_policy p where p.polrelid = c.oid and p.polname = 'busymate_stats_dump') as roles
          from part join pg_class c on c.oid = part.oid
         -- Owners need neither a grant nor a policy.
         where c.relkind in ('r', 'p') and not pg_has_role(role, c.relowner, 'usage')
         order by c.oid
    loop
        execute format('grant select on %s to %I', dumped.name, role);
        for sequence in
            select s.oid
              from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
               and d.refobjid = dumped.oid and d.deptype in ('a', 'i')
        loop
            execute format('grant select on sequence %s to %I', sequence, role);
        end loop;
        if not dumped.relrowsecurity or exempt then
            continue;
        elsif dumped.roles is null then
            execute format('create policy busymate_stats_dump on %s for select to %I using (true)', dumped.name, role);
            execute format('comment on policy busymate_stats_dump on %s is %L', dumped.name,
                           'Roles that busymate_stats.grant_dump() lets dump every row.');
        elsif (select r.oid from pg_roles r where r.rolname = role) <> all (dumped.roles) then
            execute format('alter policy busymate_stats_dump on %s to %s, %I', dumped.name,
                           (select string_agg(quote_ident(r.rolname), ', ') from pg_roles r where r.oid = any (dumped.roles)),
                           role);
        end if;
    end loop;
    if not exempt then
        raise notice using
            message = format('row-level security applies to role "%s", so its dumps take pg_dump''s option --enable-row-security', role),
            detail = 'Rows of other tables that policies hide from the role are then left out without an error.',
            hint = format('ALTER ROLE %I BYPASSRLS does without the option, and lets the role see every row of what it may read.', role);
    end if;
end
$$;
comment on function busymate_stats.grant_dump(name) is
    'Lets a role that is no superuser dump the extension''s configuration and the fleet, and read no more than that. To be run again after attach(), a new partition, or a restore.';
