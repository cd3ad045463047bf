/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking into disks, and the jobs and errors that kumo's never have. */
#include "driver/kumo_driver.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "viraccessapicheck.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static virDomainDiskDef *kumoFindDisk(virDomainDef *def, const char *path)
{
    virDomainDiskDef *disk = virDomainDiskByName(def, path, false);

    if (!disk)
        virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' was not found in the domain config"),
                       path);
    return disk;
}

static int kumoPeek(const virStorageSource *src, unsigned long long offset, size_t size,
                    void *buffer)
{
    VIR_AUTOCLOSE fd = -1;
    struct stat sb;
    size_t limit = size;
    size_t done = 0;

    if (!src->path) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("the disk has no medium"));
        return -1;
    }
    /* A name that is a FIFO's by now does not stop the daemon. */
    if ((fd = open(src->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0 || fstat(fd, &sb) < 0) {
        virReportSystemError(errno, _("cannot look at the image %s"), src->path);
        return -1;
    }
    if (!S_ISREG(sb.st_mode) && !S_ISBLK(sb.st_mode)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("%s is neither a file nor a block device"),
                       src->path);
        return -1;
    }
    /* There is nothing beyond what an offset can say. */
    if (offset > INT64_MAX)
        limit = 0;
    else if (limit > INT64_MAX - offset)
        limit = (size_t)(INT64_MAX - offset);
    while (done < limit) {
        ssize_t n = pread(fd, (char *)buffer + done, limit - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            virReportSystemError(errno, _("cannot read the image %s"), src->path);
            return -1;
        }
        if (n == 0)
            break;
        done += (size_t)n;
    }
    if (done == size)
        return 0;
    virReportError(VIR_ERR_INVALID_ARG, _("'%s' starting from %llu has only %zu bytes available"),
                   src->path, offset, done);
    return -1;
}

int kumoDomainBlockPeek(virDomainPtr dom, const char *path, unsigned long long offset, size_t size,
                        void *buffer, unsigned int flags)
{
    virDomainDiskDef *disk;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    /* All images are raw: what is in the file is what the guest has there. */
    if (virDomainBlockPeekEnsureACL(dom->conn, vm->def) >= 0 &&
        (disk = kumoFindDisk(vm->def, path)))
        ret = kumoPeek(disk->src, offset, size, buffer);
    virDomainObjEndAPI(&vm);
    return ret;
}

/* A disk whose file fails goes on, and its guest is told of each error: none stays with it. */
int kumoDomainGetDiskErrors(virDomainPtr dom, virDomainDiskErrorPtr errors,
                            unsigned int nerrors G_GNUC_UNUSED, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetDiskErrorsEnsureACL(dom->conn, vm->def) >= 0 &&
        virDomainObjCheckActive(vm) >= 0)
        ret = errors ? 0 : (int)vm->def->ndisks;
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- jobs: nothing begins one --- */

int kumoDomainGetBlockJobInfo(virDomainPtr dom, const char *path,
                              virDomainBlockJobInfoPtr info G_GNUC_UNUSED, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetBlockJobInfoEnsureACL(dom->conn, vm->def) >= 0 &&
        virDomainObjCheckActive(vm) >= 0 && kumoFindDisk(vm->def, path))
        ret = 0;
    virDomainObjEndAPI(&vm);
    return ret;
}

static int kumoReportNoBlockJob(virDomainPtr dom, const char *path,
                                int (*ensureACL)(virConnectPtr conn, virDomainDef *def))
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    virDomainDiskDef *disk;

    if (!vm)
        return -1;
    if (ensureACL(dom->conn, vm->def) >= 0 && virDomainObjCheckActive(vm) >= 0 &&
        (disk = kumoFindDisk(vm->def, path)))
        virReportError(VIR_ERR_INVALID_ARG, _("disk %s does not have an active block job"),
                       disk->dst);
    virDomainObjEndAPI(&vm);
    return -1;
}

int kumoDomainBlockJobAbort(virDomainPtr dom, const char *path, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC | VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT, -1);
    return kumoReportNoBlockJob(dom, path, virDomainBlockJobAbortEnsureACL);
}

int kumoDomainBlockJobSetSpeed(virDomainPtr dom, const char *path,
                               unsigned long bandwidth G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES, -1);
    return kumoReportNoBlockJob(dom, path, virDomainBlockJobSetSpeedEnsureACL);
}
