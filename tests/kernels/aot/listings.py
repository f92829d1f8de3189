"""What nvdisasm printed for small kernels of this project, cut to what matters."""

# sm_90: a product of matrix and vector, launched dependently; one row of the matrix and the vector.
HOPPER = """
	//## File "/somewhere/toys.py", line 5
        /*0010*/                   ULDC.64 UR6, c[0x0][0x208] ;
        /*0030*/                   LDC.64 R56, c[0x0][0x218] ;
        /*0050*/                   LDC.64 R46, c[0x0][0x210] ;
        /*0070*/                   PREEXIT ;
	//## File "/somewhere/toys.py", line 9
        /*00b0*/                   LEA R56, P0, R0, R56, 0xe ;
        /*00c0*/                   ULDC.64 UR8, c[0x0][0x228] ;
        /*00e0*/                   LEA.HI.X.SX32 R57, R4, R57, 0x1, P0 ;
        /*0100*/                   IMAD.WIDE.U32 R56, R3, 0x2, R56 ;
        /*0110*/                   IMAD.WIDE.U32 R46, R3.reuse, 0x2, R46 ;
        /*0120*/                   LDG.E.128 R4, desc[UR6][R56.64] ;
        /*0140*/                   LDG.E.128 R8, desc[UR6][R56.64+0x1000] ;
        /*0170*/                   ACQBULK ;
	//## File "/somewhere/toys.py", line 12
        /*0180*/                   LDG.E.U16 R20, desc[UR6][R46.64] ;
        /*01e0*/                   SHF.L.U32 R52, R4, 0x10, RZ ;
        /*0210*/              @!P0 LEA R2, P1, R3, UR8, 0x1 ;
        /*0220*/                   STG.E.64 desc[UR6][R2.64], R52 ;
        /*0230*/                   EXIT ;
.L_x_0:
        /*0240*/                   BRA `(.L_x_0);
"""
# sm_80: blocks of two matrices on their way to shared memory, a loop that waits for all but two groups.
AMPERE = """
        /*0160*/                   LEA R56, P0, R5.reuse, c[0x0][0x160], 0xd ;
        /*01d0*/                   IMAD.WIDE.U32 R54, R7, R44, c[0x0][0x168] ;
        /*02b0*/                   LDGSTS.E.BYPASS.128 [R51+0x1000], [R56.64], P0 ;
        /*0300*/                   LDGDEPBAR ;
        /*0330*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0380*/                   LDGDEPBAR ;
        /*0400*/                   LDGSTS.E.LTC128B.64 [R51+0x800], [R54.64+-0x800], P2 ;
        /*0440*/                   LDGDEPBAR ;
.L_x_1:
        /*05e0*/                   DEPBAR.LE SB0, 0x2 ;
        /*0690*/                   LDSM.16.M88.4 R16, [R50+UR8+0x1000] ;
        /*0710*/                   HMMA.16816.F32.BF16 R40, R16.reuse, R4, R40 ;
        /*0720*/                   HFMA2.MMA R44, -RZ, RZ, 0, 0 ;
        /*0730*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0740*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0750*/               @P1 BRA `(.L_x_1) ;
        /*0760*/                   EXIT ;
"""
